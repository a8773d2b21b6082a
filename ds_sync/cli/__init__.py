"""The ds-sync command: one command is one call of the public API."""
