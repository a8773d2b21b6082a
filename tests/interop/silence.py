"""A client of a room that goes without a word."""

import asyncio
import time

from websockets.asyncio.client import connect

HERE, GONE = b"\x01\x06\x01\x05\x01\x02{}", b"\x01\x08\x01\x05\x02\x04null"
"""What client 5 says of herself, and what is said of her when she has gone."""


async def see_her_go(room: str) -> float:
    """Return for how many seconds a client that answers nothing any more is present to another."""
    async with connect(room, ping_interval=None) as ann, connect(room, ping_interval=None) as bob, asyncio.timeout(20):
        await ann.send(HERE)
        while await bob.recv() != HERE:
            continue
        begun = time.monotonic()
        ann.transport.pause_reading()
        while await bob.recv() != GONE:
            continue
        ann.transport.abort()
        return time.monotonic() - begun
