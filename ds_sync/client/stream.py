"""StreamClient: one stream, over HTTP (PROTOCOL.md section 5)."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from ds_sync.client import answers
from ds_sync.client.credentials import Credentials
from ds_sync.client.exchange import Exchange
from ds_sync.client.follower import Follower as Follower
from ds_sync.client.follower import Interruption as Interruption
from ds_sync.client.retry import Backoff, RetryPolicy, is_transient
from ds_sync.client.timeouts import Timeouts
from ds_sync.client.transport import HttpTransport, Response, Transport
from ds_sync.environment import Environment
from ds_sync.exceptions import DsSyncError, NotFoundError, ResponseError, TransportError
from ds_sync.protocol import headers as h
from ds_sync.protocol.messages import AppendResult, Page, ProducerStamp, StreamInfo
from ds_sync.protocol.offsets import BEGINNING, Offset
from ds_sync.protocol.tail import Live

DEFAULT_CONTENT_TYPE = "application/octet-stream"


class StreamClient:
    """A stream at a URL. Holds no connection of its own, and may be used by any number of tasks.

    Every call raises what ds_sync.exceptions draws: TransportError when no answer came, a ResponseError when the server refused, and
    ProtocolError when its answer makes no sense. Transient failures are retried by the policy before that, where it is safe: always
    but for an append without a producer, which is sent again only if the server said that it did nothing.
    """

    def __init__(
        self,
        url: str,
        *,
        transport: Transport | None = None,
        credentials: Credentials | None = None,
        environment: Environment | None = None,
        retry: RetryPolicy | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        """`transport` is shared and stays open at `aclose`; without one the client makes its own."""
        self.url = url
        self._transport = HttpTransport() if transport is None else transport
        self._owns_transport = transport is None
        self._environment = environment or Environment()
        self._retry = retry or RetryPolicy()
        self._timeouts = timeouts or Timeouts()
        self._exchange = Exchange(url, self._transport, credentials or Credentials())

    async def create(
        self,
        *,
        content_type: str = DEFAULT_CONTENT_TYPE,
        body: bytes = b"",
        closed: bool = False,
        incarnation: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> StreamInfo:
        """Make the stream, or find it there with the same configuration (section 5.1). Raises ConflictError if it has another one.

        `incarnation`: the id the new stream is to have, when a lost stream is made anew. `headers`: more of them (TTL, forks).
        """
        sent = {**(headers or {}), "content-type": content_type}
        if closed:
            sent[h.STREAM_CLOSED] = "true"
        if incarnation is not None:
            sent[h.STREAM_INCARNATION] = incarnation
        response = await self._call("PUT", headers=sent, body=body)
        return answers.parse_info(response, content_type=content_type)

    async def append(
        self,
        body: bytes,
        *,
        content_type: str,
        producer: ProducerStamp | None = None,
        stream_seq: str | None = None,
        close: bool = False,
        incarnation: str | None = None,
    ) -> AppendResult:
        """Append `body`, whole or not at all (section 5.2); with `close` it is the last.

        With a producer it may be repeated, and the result says whether the server took it for a repetition. With an `incarnation`
        nothing is appended to any other life of the URL: GoneError names the one that is there. A server that knows no incarnations
        says so by answering none. Raises StaleEpochError, SequenceGapError, SequenceRegressionError, StreamClosedError,
        PayloadTooLargeError. After a TransportError it may stand in the stream or not.
        """
        sent = {"content-type": content_type}
        if producer is not None:
            sent |= {h.PRODUCER_ID: producer.id, h.PRODUCER_EPOCH: str(producer.epoch), h.PRODUCER_SEQ: str(producer.seq)}
        if stream_seq is not None:
            sent[h.STREAM_SEQ] = stream_seq
        if incarnation is not None:
            sent[h.STREAM_INCARNATION] = incarnation
        if close:
            sent[h.STREAM_CLOSED] = "true"
        response = await self._call("POST", headers=sent, body=body, idempotent=producer is not None)
        return answers.parse_append(response, producer=producer is not None)

    async def read(self, offset: Offset = BEGINNING, *, fresh: bool = False) -> Page:
        """Return the page after `offset` (section 5.5). `fresh` gets past every cache: the server itself answers."""
        query, headers = {h.QUERY_OFFSET: str(offset)}, {}
        if fresh:
            query[h.QUERY_CURSOR] = str(self._environment.random.getrandbits(48))
            headers["cache-control"] = "no-cache"
        return answers.parse_page(await self._call("GET", query=query, headers=headers))

    def follow(self, offset: Offset = BEGINNING, *, live: Live = "auto") -> Follower:
        """Return an iterator over the pages after `offset`, as they come about; it begins at its first use."""
        return Follower(self._exchange, offset, live=live, environment=self._environment, retry=self._retry, timeouts=self._timeouts)

    async def head(self) -> StreamInfo:
        """Return what the server says of the stream (section 5.4)."""
        return answers.parse_info(await self._call("HEAD"))

    async def close(self, body: bytes = b"", *, content_type: str | None = None) -> AppendResult:
        """End the stream, after `body` if there is one (section 5.3). It may be repeated if there is none."""
        sent = {h.STREAM_CLOSED: "true"}
        if body or content_type is not None:
            sent["content-type"] = content_type or DEFAULT_CONTENT_TYPE
        response = await self._call("POST", headers=sent, body=body, idempotent=not body)
        return answers.parse_append(response, producer=False)

    async def delete(self) -> None:
        """Delete the stream (section 5.4). Raises NotFoundError if there was none."""
        await self._call("DELETE")

    async def aclose(self) -> None:
        """Close the connections, unless the transport is somebody else's."""
        if self._owns_transport:
            await self._transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def _call(
        self,
        method: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        idempotent: bool = True,
    ) -> Response:
        backoff = Backoff(self._retry, self._environment.random)
        attempt, unknown = 1, False
        while True:
            try:
                response = await self._exchange.request(method, query=query, headers=headers, body=body, timeout=self._timeouts.request)
                if 200 <= response.status < 300:
                    return response
                raise answers.build_error(response, now=self._environment.now())
            except DsSyncError as error:
                # An attempt whose answer was lost may well have deleted it.
                if method == "DELETE" and unknown and isinstance(error, NotFoundError):
                    return Response(204, {})
                if attempt >= self._retry.max_attempts or not is_transient(error, idempotent=idempotent):
                    raise
                unknown = unknown or isinstance(error, TransportError)
                delay = backoff.next_delay(error.retry_after if isinstance(error, ResponseError) else None)
            await self._environment.sleep(delay)
            attempt += 1
