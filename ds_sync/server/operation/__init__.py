"""What an operator sees: metrics, logs, the list of streams."""
