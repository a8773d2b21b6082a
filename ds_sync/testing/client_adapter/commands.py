"""The suite's commands, each a few calls of the client's public API."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from ds_sync import StreamClient, __version__
from ds_sync.client.producer import Producer
from ds_sync.client.retry import RetryPolicy
from ds_sync.client.timeouts import Timeouts
from ds_sync.client.transport import HttpTransport, Transport
from ds_sync.exceptions import DsSyncError
from ds_sync.protocol.headers import media_type
from ds_sync.protocol.json_mode import JSON_MEDIA_TYPE
from ds_sync.testing.client_adapter import reading
from ds_sync.testing.client_adapter.dynamic import DynamicValue, evaluate
from ds_sync.testing.client_adapter.refusals import describe_error, refuse, require_texts

Command = Mapping[str, Any]
Answer = dict[str, Any]

FEATURES = ("batching", "sse", "longPoll", "auto", "streaming", "dynamicHeaders", "retryOptions", "batchItems", "strictZeroValidation")

RETRY = RetryPolicy(max_attempts=5, first_delay=0.1, max_delay=2.0, max_retry_after=5.0, resend_unknown=True)
"""A command has 30 seconds. The suite appends without a producer, and wants a lost answer to be followed by another attempt."""

TIMEOUTS = Timeouts(request=15.0, hasty=0.2)
"""The suite's server answers a long-poll after half a second."""

COMMAND_SECONDS = 27.0
"""The suite waits for 30, and would take a later answer for that of the next command."""

_DEFAULT_CONTENT_TYPE = "application/octet-stream"


class Adapter:
    """The state between commands. An async context manager: leaving it ends the producers and closes the connections."""

    def __init__(self) -> None:
        self._url = ""
        self._transport: Transport = HttpTransport()
        self._content_types: dict[str, str] = {}
        self._headers: dict[str, DynamicValue] = {}
        self._params: dict[str, DynamicValue] = {}
        self._producers: dict[tuple[str, str, int], Producer] = {}
        self._commands: dict[str, Callable[[Command], Awaitable[Answer]]] = {
            "init": self._init,
            "create": self._create,
            "connect": self._connect,
            "append": self._append,
            "read": self._read,
            "head": self._head,
            "delete": self._delete,
            "close": self._close,
            "idempotent-append": self._idempotent_append,
            "idempotent-append-batch": self._idempotent_append_batch,
            "idempotent-close": self._idempotent_close,
            "idempotent-detach": self._idempotent_detach,
            "set-dynamic-header": self._set_dynamic_header,
            "set-dynamic-param": self._set_dynamic_param,
            "clear-dynamic": self._clear_dynamic,
            "validate": self._validate,
            "shutdown": self._shutdown,
        }

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._forget()
        await self._transport.aclose()

    async def carry_out(self, command: Command) -> Answer:
        """Return the answer, whatever happens."""
        kind = str(command.get("type", ""))
        if kind not in self._commands:
            return refuse(kind, "NOT_SUPPORTED", f"no such command: {kind[:80]!r}")
        try:
            require_texts(command)
            async with asyncio.timeout(COMMAND_SECONDS):
                return {"type": kind, "success": True, **await self._commands[kind](command)}
        except TimeoutError:
            return refuse(kind, "TIMEOUT", f"the command took longer than {COMMAND_SECONDS} s")
        except (KeyError, TypeError, OverflowError) as error:
            return refuse(kind, "INVALID_ARGUMENT", f"the command lacks something, or has it in the wrong form: {error!r}")
        except Exception as error:  # the suite waits for a line, whatever it is
            return describe_error(error, command)

    def _stream(self, command: Command, *, headers: Mapping[str, str] | None = None, **more: Any) -> StreamClient:
        path = command["path"]
        settings = {"transport": self._transport, "content_type": self._content_types.get(path), "retry": RETRY, "timeouts": TIMEOUTS}
        sent = {**(headers or {}), **(command.get("headers") or {})}
        return StreamClient(self._url + path, headers=sent, **{**settings, **more})

    def _content_type(self, path: str) -> str:
        return self._content_types.get(path, _DEFAULT_CONTENT_TYPE)

    def _is_json(self, path: str) -> bool:
        return media_type(self._content_type(path)) == JSON_MEDIA_TYPE

    async def _init(self, command: Command) -> Answer:
        await self._forget()
        self._url = str(command["serverUrl"]).rstrip("/")
        return {"clientName": "ds-sync", "clientVersion": __version__, "features": dict.fromkeys(FEATURES, True)}

    async def _forget(self) -> None:
        await self._end_producers(list(self._producers))
        for kept in (self._content_types, self._headers, self._params):
            kept.clear()

    async def _end_producers(self, keys: Iterable[tuple[str, str, int]]) -> None:
        for producer in [self._producers.pop(key) for key in keys]:
            with suppress(DsSyncError):  # the command that met it was answered with it
                await producer.aclose()

    async def _shutdown(self, command: Command) -> Answer:
        return {}

    async def _create(self, command: Command) -> Answer:
        path, content_type = command["path"], command.get("contentType") or _DEFAULT_CONTENT_TYPE
        info = await self._stream(command).create(
            content_type=content_type,
            body=_decode(command) if command.get("data") else b"",
            closed=bool(command.get("closed")),
            ttl=command.get("ttlSeconds"),
            expires_at=command.get("expiresAt"),
        )
        self._content_types[path] = content_type
        return {"status": 201 if info.created else 200, "offset": info.tail}

    async def _connect(self, command: Command) -> Answer:
        answer = await self._head(command)
        return {"status": 200, "offset": answer["offset"]}

    async def _head(self, command: Command) -> Answer:
        info = await self._stream(command).head()
        self._content_types[command["path"]] = info.content_type
        return {"status": 200, "offset": info.tail, "contentType": info.content_type, "streamClosed": info.closed}

    async def _delete(self, command: Command) -> Answer:
        await self._stream(command).delete()
        self._content_types.pop(command["path"], None)
        await self._end_producers([key for key in self._producers if key[0] == command["path"]])
        return {"status": 200}

    async def _append(self, command: Command) -> Answer:
        path, body = command["path"], _decode(command)
        sent = self._evaluate()
        stream = self._stream(command, headers=sent.get("headersSent"), params=sent.get("paramsSent"))
        if self._is_json(path) and body:
            body = b"[" + body + b"]"
        seq = command.get("seq")
        result = await stream.append(body, content_type=self._content_type(path), stream_seq=None if seq is None else str(seq))
        return {"status": 200, "offset": result.tail or (await stream.head()).tail, **sent}

    async def _read(self, command: Command) -> Answer:
        sent = self._evaluate()
        watched = reading.Watched(self._transport)
        stream = self._stream(command, headers=sent.get("headersSent"), params=sent.get("paramsSent"), transport=watched)
        return {**await reading.read(stream, watched, command, self._content_type(command["path"])), **sent}

    async def _close(self, command: Command) -> Answer:
        content_type = command.get("contentType") or self._content_type(command["path"])
        body = _decode(command) if command.get("data") else b""
        stream = self._stream(command)
        result = await stream.close(body, content_type=content_type)
        return {"finalOffset": result.tail or (await stream.head()).tail}

    async def _idempotent_append(self, command: Command) -> Answer:
        receipt = await self._producer(command).append(_decode(command))
        await self._producer(command).flush()
        result = await receipt
        return {"status": 200, "duplicate": result.duplicate, **({"offset": result.tail} if result.tail else {})}

    async def _idempotent_append_batch(self, command: Command) -> Answer:
        in_flight = int(command.get("maxInFlight") or 1)
        # More than one under way: one item a request, so that there is something to overtake.
        batching = {"max_batch_items": 1, "linger": 0.0} if in_flight > 1 else {"linger": 60.0}
        stream = self._stream(command, content_type=self._content_type(command["path"]))
        epoch, claim = int(command.get("epoch") or 0), bool(command.get("autoClaim"))
        async with stream.producer(command["producerId"], epoch=epoch, auto_claim=claim, max_in_flight=in_flight, **batching) as producer:  # type: ignore[arg-type]
            for item in command["items"]:
                await producer.append(item)
            await producer.flush()
        return {"status": 200}

    async def _idempotent_close(self, command: Command) -> Answer:
        result = await self._producer(command).close(_decode(command) if command.get("data") else b"")
        return {"status": 200, "finalOffset": result.tail or (await self._stream(command).head()).tail}

    async def _idempotent_detach(self, command: Command) -> Answer:
        await self._end_producers({_producer_key(command)} & self._producers.keys())
        return {"status": 200}

    def _producer(self, command: Command) -> Producer:
        """The producer of this name, kept from command to command: its numbers go on."""
        key = _producer_key(command)
        if key not in self._producers:
            stream = self._stream(command, content_type=self._content_type(command["path"]))
            self._producers[key] = stream.producer(
                command["producerId"], epoch=key[2], auto_claim=bool(command.get("autoClaim")), max_in_flight=1, linger=0.0
            )
        return self._producers[key]

    def _evaluate(self) -> Answer:
        """The dynamic headers and parameters of one command, as its answer tells them."""
        found = {"headersSent": evaluate(self._headers), "paramsSent": evaluate(self._params)}
        return {name: values for name, values in found.items() if values}

    async def _set_dynamic_header(self, command: Command) -> Answer:
        self._headers[command["name"]] = DynamicValue(command["valueType"], command.get("initialValue", ""))
        return {}

    async def _set_dynamic_param(self, command: Command) -> Answer:
        self._params[command["name"]] = DynamicValue(command["valueType"], command.get("initialValue", ""))
        return {}

    async def _clear_dynamic(self, command: Command) -> Answer:
        self._headers.clear()
        self._params.clear()
        return {}

    async def _validate(self, command: Command) -> Answer:
        target = command["target"]
        if target["target"] == "retry-options":
            delays = {name: target[theirs] / 1000 for name, theirs in _DELAYS.items() if theirs in target}
            attempts = {"max_attempts": target["maxRetries"] + 1} if "maxRetries" in target else {}
            RetryPolicy(**delays, **attempts, **{name: target[name] for name in ("multiplier",) if name in target})
        elif target["target"] == "idempotent-producer":
            settings = {name: target[theirs] for name, theirs in _PRODUCER_SETTINGS.items() if theirs in target}
            StreamClient(self._url, transport=self._transport).producer(target.get("producerId", "validated"), **settings)
        else:
            return refuse("validate", "NOT_SUPPORTED", f"no such target: {str(target['target'])[:80]!r}")
        return {}


_DELAYS = {"first_delay": "initialDelayMs", "max_delay": "maxDelayMs"}
_PRODUCER_SETTINGS = {"epoch": "epoch", "max_batch_bytes": "maxBatchBytes", "max_batch_items": "maxBatchItems"}


def _producer_key(command: Command) -> tuple[str, str, int]:
    return command["path"], command["producerId"], int(command.get("epoch") or 0)


def _decode(command: Command) -> bytes:
    data = str(command["data"])
    return base64.b64decode(data, validate=True) if command.get("binary") else data.encode()
