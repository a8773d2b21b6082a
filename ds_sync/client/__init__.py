"""Speaks the Durable Streams protocol over HTTP."""
