from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from ds_sync.cli.replaying.relay import Relay, Relays


@pytest.fixture
def echo() -> Iterator[str]:
    """The URL of a server that sends back what it gets, in capitals."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(connection: socket.socket) -> None:
        with connection:
            try:
                while piece := connection.recv(65_536):
                    connection.sendall(piece.upper())
            except ConnectionResetError:
                return

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


@pytest.fixture
def relays() -> Iterator[Relays]:
    relays = Relays()
    yield relays
    relays.close()


def connect(relay: Relay) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(relay.url.rsplit(":", 1)[1])), timeout=10)


def reached(relay: Relay) -> bool:
    with connect(relay) as connection:
        try:
            connection.sendall(b"hello")
            return connection.recv(5, socket.MSG_WAITALL) == b"HELLO"
        except ConnectionError:
            return False


def test_it_passes_everything_on_to_the_end(relays: Relays, echo: str) -> None:
    data = b"abcdefgh" * 100_000
    with connect(relays.open(echo)) as connection:
        sender = threading.Thread(target=lambda: (connection.sendall(data), connection.shutdown(socket.SHUT_WR)))
        sender.start()
        received = b"".join(iter(lambda: connection.recv(65_536), b""))
        sender.join()
    assert received == data.upper()


def test_a_cut_ends_what_passes_and_whoever_connects_until_it_is_mended(relays: Relays, echo: str) -> None:
    relay = relays.open(echo)
    with connect(relay) as connection:
        connection.sendall(b"hello")
        assert connection.recv(5, socket.MSG_WAITALL) == b"HELLO"
        relay.cut()
        assert connection.recv(1) == b""
    assert not reached(relay)
    relay.mend()
    assert reached(relay)


def test_cuts_that_overlap_both_have_to_end(relays: Relays, echo: str) -> None:
    relay, other = relays.open(echo), relays.open(echo)
    relay.cut()
    relay.cut()
    relay.mend()
    assert not reached(relay)
    assert reached(other)
    relay.mend()
    assert reached(relay)


def test_a_server_that_is_down_answers_nobody(relays: Relays) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert not reached(relays.open(f"http://127.0.0.1:{port}"))
