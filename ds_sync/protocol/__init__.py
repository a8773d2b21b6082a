"""What the wire says. Pure: no asyncio, httpx, sqlite3, clock, random or logging."""
