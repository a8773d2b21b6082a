"""What of a URL may be shown."""

import pytest

from ds_sync.protocol.urls import redact_url, split_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ws://old-server:1234/a/room", "ws://old-server:1234/a/room"),
        ("wss://host/room?token=SECRET&v=SECRET", "wss://host/room?token=***&v=***"),
        ("wss://host/room?SECRET", "wss://host/room?***"),
        ("wss://host/room?a=b=SECRET#SECRET", "wss://host/room?a=***"),
        ("https://ann:SECRET@host:8/v1/@ann/x", "https://host:8/v1/@ann/x"),
        ("https://SECRET@host", "https://host"),
        ("https://ann:SEC@RET@host/x", "https://host/x"),
        ("https://[::1]:80/a@b", "https://[::1]:80/a@b"),
        ("wss:/ann:SECRET@host/room", "wss:/host/room"),
        ("ann:SECRET@host/room?key=SECRET", "ann:host/room?key=***"),
        ("SECRET@host", "host"),
        ("ws://ann:SECRET@[bad/room", "ws://[bad/room"),
        ("", ""),
    ],
)
def test_user_query_and_fragment_are_not_shown(url: str, shown: str) -> None:
    assert redact_url(url) == shown
    assert "SECRET" not in shown


@pytest.mark.parametrize(
    "url", ["http://ann:SECRET@[bad", "http://ann:SECRET/x@host", "http://ann:SECRET@host:SECRET/x", "http://SECRET@a\u2100b"]
)
def test_what_is_no_url_is_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="not a URL") as refused:
        split_url(url)
    assert "SECRET" not in str(refused.value)
    assert split_url("http://ann:pw@host:8/x").port == 8
