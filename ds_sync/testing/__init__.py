"""Contract kits and fault injection for authors of adapters and engines: shipped, so that third parties can use them."""
