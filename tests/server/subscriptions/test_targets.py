import asyncio
from collections.abc import Sequence

import pytest

from ds_sync.exceptions import InvalidRequestError
from ds_sync.server.subscriptions.targets import TargetPolicy

pytestmark = pytest.mark.anyio

PUBLIC = "93.184.215.14"
NAMES = {
    "public.example": [PUBLIC],
    "private.example": ["10.0.0.1"],
    "both.example": [PUBLIC, "192.168.1.1"],
    "loop.example": ["127.0.0.1"],
    "hooks.internal": ["10.1.2.3"],
    "nothing.example": [],
}


async def resolve(host: str, port: int) -> Sequence[str]:
    if host in NAMES:
        return NAMES[host]
    if host == "unknown.example":
        raise OSError("no such name")
    found = await asyncio.get_running_loop().getaddrinfo(host, port)
    return [str(entry[4][0]) for entry in found]


async def is_allowed(policy: TargetPolicy, url: str) -> bool:
    try:
        await policy.check(url)
    except InvalidRequestError as error:
        return error.code != "WEBHOOK_URL_REJECTED"
    return True


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://public.example/hook", True),
        ("https://public.example:8443/hook?a=b", True),
        (f"https://{PUBLIC}/", True),
        ("https://[2606:2800:21f::1]/", True),
        ("http://public.example/hook", False),
        ("ftp://public.example/", False),
        ("https:///hook", False),
        ("https://user:secret@public.example/", False),
        ("https://public.example:0/", False),
        ("https://public.example:99999/", False),
        ("https://pub lic.example/", False),
        ("https://public.example\\@private.example/", False),
        ("https://bücher.example/", False),
        ("https://[::1", False),
        ("no url", False),
        ("https://private.example/", False),
        ("https://both.example/", False),
        ("https://loop.example/", False),
        ("https://10.0.0.1/", False),
        ("https://172.16.0.1/", False),
        ("https://192.168.0.1/", False),
        ("https://127.0.0.1/", False),
        ("https://127.1/", False),
        ("https://2130706433/", False),
        ("https://0x7f.0.0.1/", False),
        ("https://0.0.0.0/", False),
        ("https://169.254.169.254/latest/meta-data", False),
        ("https://100.64.0.1/", False),
        ("https://224.0.0.1/", False),
        ("https://255.255.255.255/", False),
        ("https://[::]/", False),
        ("https://[::1]/", False),
        ("https://[fe80::1]/", False),
        ("https://[fec0::1]/", False),
        ("https://[fd00::1]/", False),
        ("https://[ff02::1]/", False),
        ("https://[::ffff:10.0.0.1]/", False),
        ("https://[64:ff9b::a00:1]/", False),
        ("https://[2002:a00:1::]/", False),
    ],
)
async def test_by_default_only_public_addresses_by_https(url: str, expected: bool) -> None:
    assert await is_allowed(TargetPolicy(resolve=resolve), url) is expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8080/", True),
        ("http://localhost/", True),
        ("http://[::1]/", True),
        ("https://loop.example/", True),
        ("https://public.example/", True),
        ("http://public.example/", False),
        ("http://10.0.0.1/hook", False),
        ("https://10.0.0.1/hook", False),
        ("http://169.254.169.254/", False),
    ],
)
async def test_for_development_loopback_too(url: str, expected: bool) -> None:
    assert await is_allowed(TargetPolicy(allow_http=True, resolve=resolve), url) is expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://hooks.internal:8080/", True),
        ("https://HOOKS.internal/", True),
        ("http://10.1.255.255/", True),
        ("https://[fd00:1::2]/", True),
        ("http://10.2.0.1/", False),
        ("https://private.example/", False),
        ("https://public.example/", True),
        ("http://public.example/", False),
        ("http://127.0.0.1/", False),
    ],
)
async def test_a_list_of_what_is_allowed_besides(url: str, expected: bool) -> None:
    policy = TargetPolicy(allowed=("hooks.internal", "10.1.0.0/16", "fd00:1::/32"), resolve=resolve)
    assert await is_allowed(policy, url) is expected


async def test_what_was_checked_is_what_is_connected_to() -> None:
    target = await TargetPolicy(resolve=resolve).check("https://public.example/a/b?c=d#e")
    assert (target.scheme, target.host, target.port, target.path) == ("https", "public.example", 443, "/a/b?c=d")
    assert target.addresses == (PUBLIC,)


@pytest.mark.parametrize("host", ["unknown.example", "nothing.example"])
async def test_a_name_that_leads_nowhere_is_no_refusal(host: str) -> None:
    with pytest.raises(OSError, match=r"no such name|has no address"):
        await TargetPolicy(resolve=resolve).check(f"https://{host}/")


@pytest.mark.parametrize("entry", ["", "http://hooks.internal", "10.1.0.1/16", "a b", "host:80"])
def test_what_is_neither_host_nor_network_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="neither a host nor a network"):
        TargetPolicy(allowed=(entry,))
