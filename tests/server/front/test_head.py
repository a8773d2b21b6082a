import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds_sync.server.front.head import CHUNKED, MAX_TARGET, BadRequestError, ChunkedBody, parse_head


def test_all_parts_of_a_head() -> None:
    head = parse_head(
        b"POST /v1/stream/a%20b?offset=-1&x HTTP/1.1\r\nHost: h\r\nContent-Length: 12\r\nX-Twice:  a \t\r\nx-twice:b\r\nempty:"
    )
    assert (head.method, head.path, head.raw_path, head.query) == ("POST", "/v1/stream/a b", b"/v1/stream/a%20b", b"offset=-1&x")
    assert head.headers == [(b"host", b"h"), (b"content-length", b"12"), (b"x-twice", b"a"), (b"x-twice", b"b"), (b"empty", b"")]
    assert (head.length, head.minor, head.keep_alive, head.expects_continue, head.upgrade) == (12, 1, True, False, False)


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [("1.1", "", True), ("1.1", "close", False), ("1.1", "x, Close", False), ("1.0", "", False), ("1.0", "Keep-Alive", True)],
)
def test_when_the_connection_lives_on(version: str, connection: str, kept: bool) -> None:
    lines = [f"GET / HTTP/{version}", "host: h", *([f"connection: {connection}"] if connection else [])]
    assert parse_head("\r\n".join(lines).encode()).keep_alive is kept


def test_the_other_forms_of_a_target() -> None:
    assert parse_head(b"GET http://h:1/a?b HTTP/1.1\r\nhost: h").raw_path == b"/a"
    assert parse_head(b"GET http://h HTTP/1.1\r\nhost: h").raw_path == b"/"
    assert parse_head(b"OPTIONS * HTTP/1.1\r\nhost: h").raw_path == b"*"


def test_a_chunked_body_an_expectation_and_a_websocket() -> None:
    assert parse_head(b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: Chunked").length == CHUNKED
    assert parse_head(b"POST / HTTP/1.1\r\nhost: h\r\nexpect: 100-Continue\r\ncontent-length: 1").expects_continue
    assert parse_head(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: keep-alive, Upgrade\r\nupgrade: WebSocket").upgrade
    assert not parse_head(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: h2c").upgrade


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"GET /", 400),
        (b"GET  / HTTP/1.1\r\nhost: h", 400),
        (b"GET / HTTP/2.0\r\nhost: h", 505),
        (b"GET /" + b"a" * MAX_TARGET + b" HTTP/1.1\r\nhost: h", 414),
        (b"GET ftp://h/ HTTP/1.1\r\nhost: h", 400),
        (b"GET / HTTP/1.1", 400),
        (b"GET / HTTP/1.1\r\nhost: h\r\nhost: h", 400),
        (b"GET / HTTP/1.1\r\nhost: h\r\n folded", 400),
        (b"GET / HTTP/1.1\r\nhost : h", 400),
        (b"GET / HTTP/1.1\r\nhost: h\r\nx: a\nb", 400),
        (b"GET / HTTP/1.1\r\nhost: h\r\nx: a\rb", 400),
        (b"GET / HTTP/1.1\r\nhost: h\r\nx: \x00", 400),
        (b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: +1", 400),
        (b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\ncontent-length: 2", 400),
        (b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\ntransfer-encoding: chunked", 400),
        (b"POST / HTTP/1.0\r\nhost: h\r\ntransfer-encoding: chunked", 400),
        (b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked", 400),
        (b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: gzip, chunked", 501),
    ],
)
def test_what_is_doubtful_is_refused(data: bytes, status: int) -> None:
    with pytest.raises(BadRequestError) as caught:
        parse_head(data)
    assert caught.value.status == status


def test_the_same_length_twice_is_one_length() -> None:
    assert parse_head(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\ncontent-length: 1").length == 1


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.binary(max_size=10), st.data())
def test_a_chunked_body_comes_apart_wherever_it_is_cut(chunks: list[bytes], behind: bytes, data: st.DataObject) -> None:
    whole = b"".join(b"%X;x=1\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\ntrailer: x\r\n\r\n" + behind
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    body, found, rest = ChunkedBody(), b"", b""
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        part, rest = body.receive(rest + whole[start:end])
        found += part
    assert (found, rest, body.done) == (b"".join(chunks), behind, True)


@pytest.mark.parametrize("wrong", [b"x\r\n", b"-1\r\n", b"1\r\naab", b"fffffffffffffffff\r\n", b" 1\r\n", b"\r\n", b"1" * 40_000])
def test_a_chunk_that_can_not_be_read(wrong: bytes) -> None:
    with pytest.raises(BadRequestError):
        ChunkedBody().receive(wrong)
