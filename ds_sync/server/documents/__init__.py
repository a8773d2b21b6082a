"""Documents: streams of updates with snapshots and presence (YJS-PROTOCOL.md)."""
