"""The y-websocket gateway on raw sockets: damaged messages, frames and handshakes, beside two clients of the room who go on editing."""

from __future__ import annotations

import random
import secrets
import socket
import time
from pathlib import Path
from typing import Any

from findings import HANG_SECONDS, Finding
from mutator import mutate
from pycrdt import Doc, Map, Text
from server_watch import ServerWatch

from ds_sync.crdt import load_adapter
from ds_sync.protocol.framing import build_frame, parse_frames
from ds_sync.testing.server_process import ServerProcess

LIFE = 1500
"""Inputs after which the server is started again."""

ROOM = 150
"""Inputs in one room; then another is opened: what damaged updates left in it slows a room down."""

ROOM_MARK = b"@@ROOM@@"
"""Stands for the room's name in an input."""

PATIENCE = 0.03
"""Seconds for a server to say something to a damaged client, before it is left."""

HANDSHAKE = (
    b"GET /v1/ws/fuzz/" + ROOM_MARK + b" HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def build_frame_of_client(kind: int, data: bytes, *, fin: bool = True, mask: bytes = b"\x01\x02\x03\x04") -> bytes:
    """Spell one WebSocket frame as a client sends it (RFC 6455 section 5.2)."""
    size = len(data)
    length = (
        bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2, "big") if size < 65536 else b"\xff" + size.to_bytes(8, "big")
    )
    key = (mask * (size // 4 + 1))[:size]
    masked = (int.from_bytes(data, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")
    return bytes((0x80 * fin | kind,)) + length + mask + masked


def _build_messages() -> list[bytes]:
    doc: Doc[Any] = Doc(client_id=9)
    text = doc.get("text", type=Text)
    text += "from a damaged client é😀"
    del text[3:6]
    doc.get("map", type=Map)["a"] = 1
    update, version = bytes(doc.get_update()), bytes(doc.get_state())
    presence = b"\x01\x09\x01" + build_frame(b'{"user":{"name":"x"}}')
    return [
        *(b"\x00\x00" + build_frame(version), b"\x00\x00" + build_frame(b"\x00"), b"\x00\x01" + build_frame(update)),
        *(b"\x00\x02" + build_frame(update), b"\x00\x02" + build_frame(b"\x00\x00"), b"\x01" + build_frame(presence)),
        *(b"\x01" + build_frame(b"\x01\x09\x02" + build_frame(b"null")), b"\x02\x00" + build_frame(b"denied"), b"\x03", b"\x64", b""),
        *(b"\x01\x01\x00", b"\x00\x02\xff\xff\xff\xff\x0f", b"\x00\x03\x00", b"\x00", b"\x01" + build_frame(b"\xff\xff\xff\xff\x0f")),
    ]


MESSAGES = _build_messages()


def make_conversation(rng: random.Random) -> bytes:
    """Return what a client sends from its handshake on: messages, frames or the handshake damaged, or several of these."""
    head = (
        HANDSHAKE if rng.random() < 0.85 else mutate(rng, HANDSHAKE, [b"websocket", b"\r\n", b"Sec-WebSocket-Protocol: a,b\r\n", ROOM_MARK])
    )
    frames = b""
    for _ in range(rng.choice((1, 1, 2, 5))):
        message = rng.choice(MESSAGES)
        message = mutate(rng, message, MESSAGES)[:100_000] if rng.random() < 0.6 else message
        kind = rng.choice((BINARY, BINARY, BINARY, BINARY, TEXT, PING, PONG))
        if kind in (PING, PONG):
            message = message[:125]
        if kind == BINARY and rng.random() < 0.15:
            cut = rng.randint(0, len(message))
            frames += build_frame_of_client(BINARY, message[:cut], fin=False)
            frames += build_frame_of_client(CONTINUATION, b"", fin=False) * rng.choice((0, 1, 3000))
            frames += build_frame_of_client(CONTINUATION, message[cut:])
        else:
            frames += build_frame_of_client(kind, message) * rng.choice((1, 1, 1, 1, 1, 1, 2, 300))
    if rng.random() < 0.3:
        frames += build_frame_of_client(CLOSE, rng.choice((b"", b"\x03\xe8", b"\x03\xe8bye", b"\x00\x00", b"\x03", b"\x03\xe8\xff")))
    if rng.random() < 0.25:
        frames = mutate(rng, frames, [bytes((0x80 | kind, 0x80)) for kind in range(16)])
    return head + frames


class Person:
    """A healthy client: a document, and a WebSocket in the room. Raises Finding where the server does not do its part."""

    def __init__(self, port: int, room: bytes) -> None:
        self._adapter: Any = load_adapter("yjs")
        self._doc: Doc[Any] = self._adapter.new()
        self._marks = self._doc.get("marks", type=Map)
        self._received = b""
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=HANG_SECONDS)
        self._socket.sendall(HANDSHAKE.replace(ROOM_MARK, room))
        while b"\r\n\r\n" not in self._received:
            self._receive(time.monotonic() + HANG_SECONDS)
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            raise Finding(f"a healthy client is refused: {head[:200]!r}")
        self._send(b"\x00\x00" + build_frame(self._adapter.version(self._doc)))

    def write(self, name: str, value: str) -> None:
        """Edit, and tell the server."""
        before = self._adapter.version(self._doc)
        self._marks[name] = value
        self._send(b"\x00\x02" + build_frame(self._doc.get_update(before)))

    def wait_for(self, name: str, value: str) -> None:
        """Return when the edit of the other is here."""
        until = time.monotonic() + HANG_SECONDS
        self._read_messages()
        while self._marks.get(name) != value:
            self._receive(until)
            self._read_messages()

    def close(self) -> None:
        self._socket.close()

    def _send(self, message: bytes) -> None:
        try:
            self._socket.sendall(build_frame_of_client(BINARY, message))
        except OSError as error:
            raise Finding(f"a healthy client was hung up on: {error!r}") from error

    def _receive(self, until: float) -> None:
        self._socket.settimeout(max(0.01, until - time.monotonic()))
        try:
            part = self._socket.recv(1 << 20)
        except TimeoutError:
            raise Finding(f"a healthy client got nothing for {HANG_SECONDS} s") from None
        except OSError as error:
            raise Finding(f"a healthy client was hung up on: {error!r}") from error
        if not part:
            raise Finding("a healthy client was hung up on")
        self._received += part

    def _read_messages(self) -> None:
        while (frame := _split_frame(self._received)) is not None:
            kind, payload, self._received = frame
            if kind == PING:
                self._socket.sendall(build_frame_of_client(PONG, payload))
            elif kind == CLOSE:
                raise Finding(f"a healthy client was hung up on: {payload!r}")
            elif kind == BINARY:
                self._take(payload)

    def _take(self, message: bytes) -> None:
        if message[:1] != b"\x00":
            return
        body = parse_frames(message[2:]).payloads[0]
        if message[1] == 0:
            self._send(b"\x00\x01" + build_frame(self._doc.get_update(body)))
        else:
            self._adapter.apply(self._doc, [body])


def _split_frame(data: bytes) -> tuple[int, bytes, bytes] | None:
    """Return kind and payload of a server's first frame, and what follows it."""
    if len(data) < 2:
        return None
    size, start = data[1] & 0x7F, 2
    if size >= 126:
        start = 4 if size == 126 else 10
        size = int.from_bytes(data[2:start], "big")
    if len(data) < start or len(data) < start + size:
        return None
    return data[0] & 0x0F, data[start : start + size], data[start + size :]


class GatewayTarget:
    """A server of its own process. Each input is a client of a room that two healthy ones are in."""

    name = "ws"
    share = 2.5

    def open(self, folder: Path) -> None:
        self._count = 0
        self._people: list[Person] = []
        self._start()

    def make(self, rng: random.Random) -> bytes:
        return make_conversation(rng)

    def check(self, data: bytes) -> None:
        self._count += 1
        if self._count % LIFE == 0:
            self._end()
            self._start()
        elif self._count % ROOM == 0 or not self._people:
            self._enter()
        converse(self._server.port, data.replace(ROOM_MARK, self._room))
        value = secrets.token_hex(4)
        try:
            for writer, reader in ((0, 1), (1, 0)):
                self._people[writer].write(str(writer), value)
                self._people[reader].wait_for(str(writer), value)
        except Finding:
            self._leave()
            self._watch.check()
            raise

    def close(self) -> None:
        self._end()

    def _start(self) -> None:
        self._server = ServerProcess()
        self._watch = ServerWatch(self._server)
        self._enter()

    def _enter(self) -> None:
        self._leave()
        self._room = b"room%s" % secrets.token_hex(4).encode()
        self._people = [Person(self._server.port, self._room) for _ in range(2)]

    def _leave(self) -> None:
        for person in self._people:
            person.close()
        self._people = []

    def _end(self) -> None:
        self._leave()
        self._watch.end()


def converse(port: int, data: bytes) -> None:
    """Say all of it, listen for a moment, and go away. Raises Finding if the server takes nothing any more."""
    with socket.create_connection(("127.0.0.1", port), timeout=HANG_SECONDS) as connection:
        try:
            connection.sendall(data)
            connection.settimeout(PATIENCE)
            while connection.recv(1 << 20):
                pass
        except TimeoutError:
            if connection.gettimeout() == HANG_SECONDS:
                raise Finding(f"a hang: the server takes nothing for {HANG_SECONDS} s") from None
        except ConnectionError:
            pass  # its right
