"""Where a server keeps its streams."""
