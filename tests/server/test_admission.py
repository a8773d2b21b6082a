"""What an application is told of who asks to enter a room."""

from ds_sync.server.admission import Visitor, build_visitor


def test_headers_query_and_cookies() -> None:
    headers = [(b"Host", b"example.org"), (b"cookie", b'a=1; session="x=y"; odd;b= 2 '), (b"authorization", b"Bearer t\xe9")]
    scope = {"type": "websocket", "headers": headers, "query_string": b"key=a%20b+c&key=last&empty=&odd&x=%ff"}
    assert build_visitor(scope, "notes", "a/b") == Visitor(
        "notes",
        "a/b",
        {"host": "example.org", "cookie": 'a=1; session="x=y"; odd;b= 2 ', "authorization": "Bearer t\u00e9"},
        {"key": "last", "empty": "", "odd": "", "x": "\ufffd"},
        {"a": "1", "session": '"x=y"', "b": "2"},
        scope,
    )


def test_nothing_said() -> None:
    visitor = build_visitor({"type": "websocket", "headers": [], "query_string": b""}, "s", "r")
    assert (visitor.headers, visitor.query, visitor.cookies) == ({}, {}, {})
