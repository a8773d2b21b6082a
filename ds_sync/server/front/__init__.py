"""The HTTP server of `ds-sync serve`: HTTP/1.1 and WebSockets on the application's own event loop."""
