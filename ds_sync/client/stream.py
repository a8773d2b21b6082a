"""StreamClient: one stream, over HTTP (PROTOCOL.md section 5)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Self

from ds_sync.client import answers
from ds_sync.client.credentials import Credentials, Extras
from ds_sync.client.credentials import Value as Value
from ds_sync.client.exchange import Exchange
from ds_sync.client.follower import Follower as Follower
from ds_sync.client.follower import Interruption as Interruption
from ds_sync.client.producer import Producer as Producer
from ds_sync.client.retry import Backoff, RetryPolicy, is_transient
from ds_sync.client.timeouts import Timeouts
from ds_sync.client.transport import HttpTransport, Response, Transport
from ds_sync.environment import Environment
from ds_sync.exceptions import DsSyncError, NotFoundError, ResponseError, TransportError
from ds_sync.protocol import headers as h
from ds_sync.protocol.json_mode import JSON_MEDIA_TYPE
from ds_sync.protocol.messages import AppendResult, Page, ProducerStamp, StreamInfo
from ds_sync.protocol.offsets import BEGINNING, Offset
from ds_sync.protocol.tail import Live

DEFAULT_CONTENT_TYPE = "application/octet-stream"


class StreamClient:
    """A stream at a URL, with or without CRDTs in it. May be used by any number of tasks.

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
        headers: Mapping[str, Value] | None = None,
        params: Mapping[str, Value] | None = None,
        content_type: str | None = None,
        environment: Environment | None = None,
        retry: RetryPolicy | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        """`transport` is shared and stays open at `aclose`; without one the client makes its own.

        `headers` and `params` (of the query) go out with every request. Each value is a string, or a function, async or not, that is
        asked anew for every request; `credentials` are asked once, and again when the server refuses them. `content_type`: of the
        stream, if it is known; else it is asked for when it is needed.
        """
        self.url = url
        self._content_type = content_type
        self._transport = HttpTransport() if transport is None else transport
        self._owns_transport = transport is None
        self._environment = environment or Environment()
        self._retry = retry or RetryPolicy()
        self._timeouts = timeouts or Timeouts()
        self._exchange = Exchange(url, self._transport, credentials or Credentials(), Extras(headers=headers, params=params))

    async def create(
        self,
        *,
        content_type: str | None = None,
        body: bytes = b"",
        closed: bool = False,
        ttl: int | None = None,
        expires_at: str | None = None,
        incarnation: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> StreamInfo:
        """Make the stream, or find it there with the same configuration (section 5.1). Raises ConflictError if it has another one.

        Without `content_type` it is the client's, or application/octet-stream. The stream goes when nobody has used it for `ttl`
        seconds, or at `expires_at` (RFC 3339). `incarnation`: the id the new stream is to have, when a lost stream is made anew.
        """
        content_type = content_type or self._content_type or DEFAULT_CONTENT_TYPE
        sent = {**(headers or {}), "content-type": content_type}
        if closed:
            sent[h.STREAM_CLOSED] = "true"
        if ttl is not None:
            sent[h.STREAM_TTL] = str(ttl)
        if expires_at is not None:
            sent[h.STREAM_EXPIRES_AT] = expires_at
        if incarnation is not None:
            sent[h.STREAM_INCARNATION] = incarnation
        response = await self._call("PUT", headers=sent, body=body)
        self._content_type = content_type
        return answers.parse_info(response, content_type=content_type)

    async def fork(
        self,
        source: str,
        *,
        offset: Offset | None = None,
        sub_offset: int = 0,
        content_type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> StreamInfo:
        """Make this stream as a fork of `source`, the path of another on this server (section 4.2): it begins with what that one holds.

        Up to `offset`, or its tail; `sub_offset` adds that many of what follows: messages of a JSON stream, bytes of others. The
        content type is the source's. Raises NotFoundError without a source, and InvalidRequestError for no place in it.
        """
        sent = {**(headers or {}), h.STREAM_FORKED_FROM: source}
        if content_type is not None:
            sent["content-type"] = content_type
        if offset is not None:
            sent[h.STREAM_FORK_OFFSET] = str(offset)
        if sub_offset:
            sent[h.STREAM_FORK_SUB_OFFSET] = str(sub_offset)
        info = answers.parse_info(await self._call("PUT", headers=sent))
        self._content_type = info.content_type or content_type
        return info

    async def append(
        self,
        body: bytes,
        *,
        content_type: str | None = None,
        producer: ProducerStamp | None = None,
        stream_seq: str | None = None,
        close: bool = False,
        incarnation: str | None = None,
    ) -> AppendResult:
        """Append `body`, whole or not at all (section 5.2); with `close` it is the last.

        `content_type` is the stream's; without it the client finds out. On a JSON stream the elements of an array are the messages.
        With a producer it may be repeated, and the result says whether the server took it for a repetition. With an `incarnation`
        nothing is appended to any other life of the URL: GoneError names the one that is there. A server that knows no incarnations
        says so by answering none. Raises StaleEpochError, SequenceGapError, SequenceRegressionError, StreamClosedError,
        PayloadTooLargeError. After a TransportError it may stand in the stream or not.
        """
        sent = {"content-type": content_type or await self.find_content_type()}
        if producer is not None:
            sent |= {h.PRODUCER_ID: producer.id, h.PRODUCER_EPOCH: str(producer.epoch), h.PRODUCER_SEQ: str(producer.seq)}
        if stream_seq is not None:
            sent[h.STREAM_SEQ] = stream_seq
        if incarnation is not None:
            sent[h.STREAM_INCARNATION] = incarnation
        if close:
            sent[h.STREAM_CLOSED] = "true"
        response = await self._call("POST", headers=sent, body=body, idempotent=producer is not None or self._retry.resend_unknown)
        return answers.parse_append(response, producer=producer is not None)

    async def append_json(self, *messages: Any) -> AppendResult:
        """Append messages to a JSON stream, each whatever `json.dumps` takes; all of them or none."""
        body = json.dumps(messages, separators=(",", ":"), allow_nan=False)
        return await self.append(body.encode(), content_type=JSON_MEDIA_TYPE)

    def producer(
        self,
        id: str | None = None,
        *,
        epoch: int | None = None,
        auto_claim: bool = True,
        max_batch_bytes: int = 1024 * 1024,
        max_batch_items: int = 10_000,
        max_in_flight: int = 5,
        max_buffered: int = 8 * 1024 * 1024,
        linger: float = 0.005,
    ) -> Producer:
        """Return what appends many items, each exactly once and in order, in batches, several of them under way at a time.

        `id` names the writer: of two that use one name at the same time, the one that began later takes it over, and the other
        takes it back unless `auto_claim` is off: then it fails with StaleEpochError. Without an `id` it is one that nobody has. `epoch`
        is the clock's unless you keep it yourself; it then begins at number 0, and without `auto_claim` numbers that the server has
        had are taken for repetitions (`AppendResult.duplicate`): send the same items then, one a batch, or some are lost. A batch is
        sent when it is full, or when its first item has waited `linger` seconds, and there is room under `max_in_flight`. `append`
        waits while `max_buffered` bytes are not accepted yet.
        Raises ValueError, naming the setting, for one that makes no sense.
        """
        return Producer(
            self._exchange,
            self.find_content_type,
            id=f"ds-sync-{self._environment.random.getrandbits(96):024x}" if id is None else id,
            epoch=epoch,
            auto_claim=auto_claim,
            max_batch_bytes=max_batch_bytes,
            max_batch_items=max_batch_items,
            max_in_flight=max_in_flight,
            max_buffered=max_buffered,
            linger=linger,
            environment=self._environment,
            retry=self._retry,
            timeouts=self._timeouts,
        )

    async def read(self, offset: Offset = BEGINNING, *, fresh: bool = False) -> Page:
        """Return the page after `offset` (section 5.5). `fresh` gets past every cache: the server itself answers."""
        query, headers = {h.QUERY_OFFSET: str(offset)}, {}
        if fresh:
            query[h.QUERY_CURSOR] = str(self._environment.random.getrandbits(48))
            headers["cache-control"] = "no-cache"
        return answers.parse_page(await self._call("GET", query=query, headers=headers))

    async def read_snapshot(self) -> Page | None:
        """Return a document's newest snapshot as a page of one frame, and where its updates go on; None if it has none.

        The client's URL is then the document's, not a stream's: `/v1/<crdt>/<service>/docs/<path>` (YJS-PROTOCOL.md section 6). Raises
        NotFoundError if there is no such document, and any ResponseError from a server that knows no documents.
        """
        found = await self._call("GET", query={h.QUERY_OFFSET: answers.SNAPSHOT}, redirects=False)
        key = answers.parse_snapshot_key(found)
        return None if key is None else answers.parse_snapshot(await self._call("GET", query={h.QUERY_OFFSET: key}))

    def follow(self, offset: Offset = BEGINNING, *, live: Live = "auto", catch_up: bool = True) -> Follower:
        """Return an iterator over what comes after `offset`, as it comes about; it begins at its first use.

        It survives everything but refusals, and ends with the stream; without `live`, at the tail. Reading begins with plain reads,
        which caches may answer, until the tail is reached; without `catch_up` it begins live, which saves a request near the tail
        (name the client's `content_type` then). `auto` is SSE, but long-poll for text: an event stream changes its line ends
        ("\\r\\n" and "\\r" become "\\n"; section 5.7), so `sse` is for text in which they don't matter.
        """
        return Follower(
            self._exchange,
            offset,
            live=live,
            catch_up=catch_up,
            content_type=self._content_type or "",
            environment=self._environment,
            retry=self._retry,
            timeouts=self._timeouts,
        )

    async def head(self) -> StreamInfo:
        """Return what the server says of the stream (section 5.4)."""
        info = answers.parse_info(await self._call("HEAD"))
        self._content_type = info.content_type or self._content_type
        return info

    async def find_content_type(self) -> str:
        """Return the stream's content type: what is known already, or the server's answer. Raises what `head` raises."""
        if self._content_type is None:
            await self.head()
        return self._content_type or DEFAULT_CONTENT_TYPE

    async def close(self, body: bytes = b"", *, content_type: str | None = None) -> AppendResult:
        """End the stream, after `body` if there is one (section 5.3). It may be repeated if there is none."""
        sent = {h.STREAM_CLOSED: "true"}
        if body:
            sent["content-type"] = content_type or await self.find_content_type()
        response = await self._call("POST", headers=sent, body=body, idempotent=not body or self._retry.resend_unknown)
        return answers.parse_append(response, producer=False)

    async def delete(self) -> None:
        """Delete the stream (section 5.4). Raises NotFoundError if there was none."""
        await self._call("DELETE")

    async def list_paths(self, pattern: str = "**") -> AsyncIterator[str]:
        """Yield the paths of a server's living streams, sorted; the client's URL is then the server's `/v1/stream/__ds/streams`.

        `pattern`: `*` is any run of characters but "/", `**` any run. No part of the protocol: other servers answer NotFoundError.
        """
        query = {"pattern": pattern}
        while True:
            paths, following = answers.parse_paths(await self._call("GET", query=query))
            for path in paths:
                yield path
            if following is None:
                return
            query["after"] = following

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
        redirects: bool = True,
    ) -> Response:
        """Without `redirects` they are answers like others."""
        backoff = Backoff(self._retry, self._environment.random)
        attempt, unknown = 1, False
        while True:
            try:
                response = await self._exchange.request(
                    method, query=query, headers=headers, body=body, timeout=self._timeouts.request, redirects=redirects
                )
                if 200 <= response.status < (300 if redirects else 400):
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
