"""Serves the Durable Streams protocol as an ASGI application."""
