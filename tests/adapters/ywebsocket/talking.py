"""Clients of the gateway: by hand over ASGI, each frame seen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from ds_sync_yjs.presence import YjsPresence
from ds_sync_ywebsocket import messages
from pycrdt import Doc, Text

from ds_sync.crdt import Word
from ds_sync.protocol.framing import build_frame, parse_frames
from ds_sync.server.app import Application
from ds_sync.server.engines.base import StorageEngine
from ds_sync.testing.asgi_transport import AsgiTransport

SECONDS = 5.0
presence = YjsPresence()


class Client:
    """One WebSocket connection to an application; `document` is what it knows."""

    def __init__(self, app: Application, path: str, *, query: str = "", subprotocols: Sequence[str] = (), reads: bool = True) -> None:
        self.document: Doc[Any] = Doc()
        self.words: dict[int, Word] = {}
        self.frames: list[bytes] = []
        self.accepted: dict[str, Any] | None = None
        self.closed: tuple[int, str] | None = None
        self._to_server: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._changed = asyncio.Event()
        self._reads = reads
        scope = {
            "type": "websocket",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [],
            "subprotocols": list(subprotocols),
        }
        self._to_server.put_nowait({"type": "websocket.connect"})
        self.task = asyncio.ensure_future(app(scope, self._to_server.get, self._receive))

    @property
    def text(self) -> Text:
        return self.document.get("body", type=Text)

    def send(self, frame: bytes | str) -> None:
        self._to_server.put_nowait({"type": "websocket.receive", "bytes" if isinstance(frame, bytes) else "text": frame})

    def sync(self) -> None:
        """Say sync step 1, as clients do when they connect."""
        self.send(messages.build_sync(messages.STEP_1, self.document.get_state()))

    def edit(self, *texts: str) -> None:
        """Append to the text, and send each update."""
        for text in texts:
            before = self.document.get_state()
            self.text.insert(len(str(self.text).encode()), text)
            self.send(messages.build_sync(messages.UPDATE, self.document.get_update(before)))

    def say(self, client: int, clock: int, state: object) -> None:
        self.send(messages.build_presence(presence.encode([Word(client, clock, state)])))

    async def wait(self, what: Callable[[Client], bool], seconds: float = SECONDS) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not what(self):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"not within {seconds} s: {self.text!s:.80} {self.words} {self.closed} {self.frames[-3:]}") from None

    async def see(self, text: str) -> None:
        await self.wait(lambda client: str(client.text) == text)

    async def synced(self) -> None:
        """Wait for the answer to our sync step 1."""
        await self.wait(lambda client: any(frame[:2] == bytes((messages.SYNC, messages.STEP_2)) for frame in client.frames))

    def updates(self) -> list[bytes]:
        """The updates that were passed on to us."""
        return [parse_frames(frame[2:]).payloads[0] for frame in self.frames if frame[:2] == bytes((messages.SYNC, messages.UPDATE))]

    async def hang_up(self, code: int = 1000) -> None:
        if self.task.done():
            return
        self._to_server.put_nowait({"type": "websocket.disconnect", "code": code})
        await asyncio.wait_for(self.task, SECONDS)

    def drop(self) -> None:
        self.task.cancel()

    def read_on(self) -> None:
        self._reads = True
        self._changed.set()

    async def _receive(self, message: dict[str, Any]) -> None:
        if message["type"] == "websocket.accept":
            self.accepted = message
        elif message["type"] == "websocket.close":
            self.closed = (message["code"], message.get("reason", ""))
        else:
            while not self._reads:
                await self._changed.wait()
                self._changed.clear()
            self._take(message["bytes"])
        self._changed.set()

    def _take(self, frame: bytes) -> None:
        self.frames.append(frame)
        if frame[0] == messages.SYNC:
            body = parse_frames(frame[2:]).payloads[0]
            if frame[1] == messages.STEP_1:
                self.send(messages.build_sync(messages.STEP_2, self.document.get_update(body)))
            else:
                self.document.apply_update(body)
        elif frame[0] == messages.PRESENCE:
            self.words.update({word.client: word for word in presence.decode(parse_frames(frame[1:]).payloads[0])})


class House:
    """An application on an engine, and those who talk with it."""

    def __init__(self, engine: StorageEngine, app: Application) -> None:
        self.engine = engine
        self.app = app
        self._http = AsgiTransport(app)
        self.clients: list[Client] = []

    def connect(self, room: str = "room", *, query: str = "", reads: bool = True, subprotocols: Sequence[str] = ()) -> Client:
        """Connect without a word."""
        client = Client(self.app, f"/v1/ws/default/{room}", query=query, reads=reads, subprotocols=subprotocols)
        self.clients.append(client)
        return client

    async def join(self, room: str = "room") -> Client:
        """Connect, and wait until what there was is there."""
        client = self.connect(room)
        client.sync()
        await client.synced()
        return client

    async def ask(
        self, method: str, path: str, body: bytes = b"", *, type: str = "application/octet-stream"
    ) -> tuple[int, dict[str, str], bytes]:
        fields = {"content-type": type} if method in ("PUT", "POST") else {}
        answer = await self._http.request(method, f"http://example.org{path}", headers=fields, body=body, timeout=SECONDS)
        return answer.status, dict(answer.headers), answer.body

    async def stored(self, room: str = "room") -> list[bytes]:
        """The updates in the document's stream."""
        status, _, body = await self.ask("GET", f"/v1/stream/yjs/default/docs/{room}/.updates?offset=-1")
        assert status == 200
        return list(parse_frames(body).payloads)

    async def append(self, updates: Iterable[bytes], room: str = "room") -> None:
        """Append over HTTP."""
        assert (await self.ask("PUT", f"/v1/yjs/default/docs/{room}"))[0] in (200, 201)
        status, _, body = await self.ask("POST", f"/v1/yjs/default/docs/{room}", b"".join(map(build_frame, updates)))
        assert status == 204, body

    async def aclose(self) -> None:
        await self._http.aclose()
        await self.app.aclose()
        for client in self.clients:
            with suppress(asyncio.CancelledError):
                await asyncio.wait_for(client.task, SECONDS)
        await self.engine.aclose()


def write_update(text: str) -> bytes:
    """An update that writes `text` into an empty document."""
    document: Doc[Any] = Doc()
    document.get("body", type=Text).insert(0, text)
    return bytes(document.get_update())
