"""A server with one stream, for tests of producers."""

import asyncio
import json
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from ds_sync.client.producer import Producer
from ds_sync.client.retry import RetryPolicy
from ds_sync.client.stream import StreamClient
from ds_sync.client.transport import Response, StreamingResponse
from ds_sync.testing.faults import FaultyTransport

RETRY = RetryPolicy(max_attempts=4, first_delay=0.001, max_delay=0.002)


class Log:
    """A server with one stream, written from PROTOCOL.md section 5.2.1 and not from our server's code."""

    def __init__(self, content_type: str = "text/plain", *, refused: tuple[bytes, ...] = (), max_body: int = 10**9) -> None:
        self.content_type = content_type
        self.bodies: list[bytes] = []
        self.producers: dict[str, tuple[int, int]] = {}
        self.closed_by: tuple[str, str, str] | None = None
        self.refused = refused
        self.max_body = max_body
        self.under_way = self.most_under_way = 0

    async def request(self, method: str, url: str, *, headers: Mapping[str, str], body: bytes = b"", timeout: float | None) -> Response:
        self.under_way += 1
        self.most_under_way = max(self.under_way, self.most_under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        if method == "HEAD":
            return Response(200, {"stream-next-offset": str(len(self.bodies)), "content-type": self.content_type})
        return self._append(headers, body)

    def _append(self, headers: Mapping[str, str], body: bytes) -> Response:
        stamp = (headers["producer-id"], headers["producer-epoch"], headers["producer-seq"])
        epoch, seq = int(stamp[1]), int(stamp[2])
        closing = headers.get("stream-closed") == "true"
        if self.closed_by is not None and self.closed_by != stamp:
            return Response(409, {"stream-closed": "true"})
        if not closing and (not body or any(word in body for word in self.refused)):
            return Response(400, {})
        if len(body) > self.max_body:
            return Response(413, {})
        found, last = self.producers.get(stamp[0], (epoch, -1))
        if epoch < found:
            return Response(403, {"producer-epoch": str(found)})
        if epoch > found:
            if seq:
                return Response(400, {}, b'{"error":{"code":"INVALID_EPOCH_SEQ"}}')
            last = -1
        if seq <= last:
            return Response(204, {"stream-next-offset": str(len(self.bodies))})
        if seq > last + 1:
            return Response(409, {"producer-expected-seq": str(last + 1), "producer-received-seq": str(seq)})
        self.producers[stamp[0]] = epoch, seq
        if body:
            self.bodies.append(body)
        if closing:
            self.closed_by = stamp
        return Response(200 if body else 204, {"stream-next-offset": str(len(self.bodies))})

    def stream(
        self, method: str, url: str, *, headers: Mapping[str, str], timeout: float | None
    ) -> AbstractAsyncContextManager[StreamingResponse]:
        raise AssertionError("nobody reads here")

    async def aclose(self) -> None:
        return None

    @property
    def items(self) -> list[str]:
        """What was appended: the messages of a JSON stream, the words of another."""
        if self.content_type == "application/json":
            return [json.dumps(message) for body in self.bodies for message in json.loads(body)]
        return b"".join(self.bodies).decode().split()


def client_of(log: Log, network: FaultyTransport | None = None, **more: Any) -> StreamClient:
    return StreamClient("http://log/s", transport=network or FaultyTransport(log), retry=RETRY, **more)


async def write(producer: Producer, words: range) -> None:
    for word in words:
        await producer.append(f"{word} ")


def numbers(words: range) -> list[str]:
    return [str(word) for word in words]
