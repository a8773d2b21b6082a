import asyncio
import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ds_sync.protocol.subscription import Event
from ds_sync.server.subscriptions import webhooks
from ds_sync.server.subscriptions.targets import TargetPolicy
from ds_sync.server.subscriptions.webhooks import Webhooks
from tests.server.conftest import Receiver, build_answer

pytestmark = pytest.mark.anyio

DEVELOPMENT = TargetPolicy(allow_http=True)


async def deliver(receiver: Receiver, seconds: float = 5.0) -> Event:
    return await Webhooks(DEVELOPMENT).deliver(receiver.url, {"webhook-signature": "t=1"}, b'{"a":1}', seconds)


async def test_a_delivery_is_one_post(receiver: Receiver) -> None:
    assert await deliver(receiver) is Event.ACCEPTED
    [arrived] = receiver.deliveries
    assert arrived.line == "POST /hook?x=1 HTTP/1.1"
    assert arrived.raw == b'{"a":1}'
    assert arrived.headers["content-type"] == "application/json"
    assert arrived.headers["webhook-signature"] == "t=1"
    assert arrived.headers["host"] == receiver.url.split("/")[2]
    assert arrived.headers["connection"] == "close"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (build_answer("200 OK", b'{"done":true}'), Event.FINISHED),
        (build_answer("204 No Content", b""), Event.ACCEPTED),
        (b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nd\r\n{"done":true}\r\n0\r\n\r\n', Event.FINISHED),
        (b'HTTP/1.0 200 OK\r\n\r\n{"done":true}', Event.FINISHED),
        (b'HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n{"done":true}', Event.FINISHED),
        (build_answer("200 OK", b'{"done":1}'), Event.ACCEPTED),
        (build_answer("200 OK", b'"done"'), Event.ACCEPTED),
        (build_answer("200 OK", b"\xff"), Event.ACCEPTED),
        (build_answer("200 OK", b"[" * 60_000), Event.ACCEPTED),
        (build_answer("200 OK", b'{"done":true}' + b" " * 100_000), Event.ACCEPTED),
        (build_answer("302 Found", b"", "location: http://169.254.169.254/"), Event.REFUSED),
        (build_answer("400 Bad Request"), Event.REFUSED),
        (build_answer("500 Oops", b'{"done":true}'), Event.REFUSED),
        (b"", Event.CUT),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", Event.CUT),
        (b"SSH-2.0-OpenSSH\r\n", Event.CUT),
        (b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 200_000, Event.CUT),
        (None, Event.SILENT),
    ],
    ids=range(18),
)
async def test_what_comes_of_it(receiver: Receiver, answer: bytes | None, expected: Event) -> None:
    receiver.answer = answer
    assert await deliver(receiver, 5.0 if answer is not None else 0.05) is expected
    assert len(receiver.deliveries) == 1


async def test_nobody_there_and_nobody_allowed() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        if host == "unknown.example":
            raise OSError("no such name")
        return [host]

    sender = Webhooks(TargetPolicy(allow_http=True, resolve=resolve))
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    for url in (f"http://127.0.0.1:{port}/", "https://10.0.0.1/", "https://unknown.example/"):
        assert await sender.deliver(url, {}, b"{}", 1.0) is Event.REFUSED


async def test_a_name_that_changes_its_mind_is_checked_again(receiver: Receiver) -> None:
    answers = ["93.184.215.14", "127.0.0.1"]

    async def resolve(host: str, port: int) -> list[str]:
        return [answers.pop(0)]

    policy = TargetPolicy(resolve=resolve)
    url = receiver.url.replace("http://127.0.0.1", "https://rebinding.example")
    assert (await policy.check(url)).addresses == ("93.184.215.14",)
    assert await Webhooks(policy).deliver(url, {}, b"{}", 1.0) is Event.REFUSED
    assert (answers, receiver.deliveries) == ([], [])


async def test_the_next_address_is_tried(receiver: Receiver) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["::1", "127.0.0.1"]  # nobody listens on the first

    url = receiver.url.replace("127.0.0.1", "two.example")
    assert await Webhooks(TargetPolicy(allow_http=True, resolve=resolve)).deliver(url, {}, b"{}", 1.0) is Event.ACCEPTED
    assert receiver.deliveries[0].headers["host"].startswith("two.example:")


def certify(name: str, folder: Path) -> tuple[Path, str]:
    """Return a file with a key and its own certificate for `name`, and the certificate as text."""
    key, subject = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    pem = serialization.Encoding.PEM
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(pem)
    file = folder / "both.pem"
    file.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()) + certificate)
    return file, certificate.decode()


async def test_https_goes_to_the_checked_address_and_asks_for_the_certificate_of_the_name(tmp_path: Path) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    file, certificate = certify("hooks.example", tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    policy = TargetPolicy(allow_http=True, resolve=resolve)
    trusting = Webhooks(policy, tls=ssl.create_default_context(cadata=certificate))
    assert await trusting.deliver(f"https://hooks.example:{port}/", {}, b"{}", 5.0) is Event.ACCEPTED
    assert receiver.deliveries[0].headers["host"] == f"hooks.example:{port}"
    assert await trusting.deliver(f"https://other.example:{port}/", {}, b"{}", 5.0) is Event.REFUSED
    assert await Webhooks(policy).deliver(f"https://hooks.example:{port}/", {}, b"{}", 5.0) is Event.REFUSED
    assert len(receiver.deliveries) == 1
    server.close()
    receiver.close()
    await server.wait_closed()


async def test_a_slow_receiver_holds_up_nobody(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "ANSWER_SECONDS", 0.2)
    sender = Webhooks(DEVELOPMENT)
    receiver.answer = None
    before = time.monotonic()
    outcomes = await asyncio.gather(*(sender.deliver(receiver.url, {}, b"{}", 600.0) for _ in range(20)))
    assert outcomes == [Event.SILENT] * 20
    assert time.monotonic() - before < 1.5


@pytest.mark.parametrize(
    ("begin", "repeated"),
    [
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1;" + b"x" * 500 + b"\r\n \r\n"),
    ],
    ids=["interim answers", "chunks"],
)
async def test_an_answer_that_does_not_end_is_not_listened_to_for_long(begin: bytes, repeated: bytes) -> None:
    sent = 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(begin)
        try:
            while sent < 20_000_000:
                writer.write(repeated * 100)
                sent += 100 * len(repeated)
                await writer.drain()
        except ConnectionError:
            pass  # hung up on, which is what this is about
        finally:
            writer.close()

    server = await asyncio.start_server(pour, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    assert await Webhooks(DEVELOPMENT).deliver(url, {}, b"{}", 5.0) is Event.CUT
    server.close()
    await server.wait_closed()
    assert sent < 20_000_000


async def test_a_host_of_slow_receivers_leaves_places_for_others(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "MAX_DELIVERIES", 3)
    monkeypatch.setattr(webhooks, "MAX_HOST_DELIVERIES", 2)
    slow = Receiver(answer=None)
    server = await asyncio.start_server(slow.serve, "127.0.0.1", 0)
    slow.url = f"http://localhost:{server.sockets[0].getsockname()[1]}/"
    sender = Webhooks(DEVELOPMENT)
    waiting = [asyncio.ensure_future(sender.deliver(slow.url, {}, b"{}", 30.0)) for _ in range(5)]
    await slow.wait(2)
    assert await sender.deliver(receiver.url, {}, b"{}", 5.0) is Event.ACCEPTED
    assert len(slow.deliveries) == 2
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert sender._hosts == {}
    slow.close()
    server.close()
