"""Which addresses webhooks may go to: nobody may have the server knock at doors that only the server can reach.

A name is resolved, every address it has is checked, and the connection is made to one of those addresses: a name that resolves to
something else a moment later changes nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from ds_sync.protocol.subscription_requests import parse_webhook_url, reject_webhook

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""(host, port) -> addresses. Raises OSError."""

RESOLVE_SECONDS: Final = 5.0

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Target:
    """A checked address."""

    scheme: str
    host: str
    """As the URL has it: for the Host header and the certificate."""
    port: int
    path: str
    addresses: tuple[str, ...]
    """To connect to, the first that answers."""


class TargetPolicy:
    """What is allowed: https to public addresses; more by option.

    `allow_http` also allows loopback addresses, by http or https: for development. `allowed` names hosts ("hooks.internal") and networks
    ("10.1.0.0/16") that may be reached by http or https wherever they are. Raises ValueError for what is neither.
    """

    def __init__(self, *, allow_http: bool = False, allowed: Sequence[str] = (), resolve: Resolve | None = None) -> None:
        self._allow_loopback = allow_http
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        self._hosts: set[str] = set()
        self._resolve = resolve or _resolve
        for entry in allowed:
            try:
                self._networks.append(ipaddress.ip_network(entry))
            except ValueError:
                if not entry or not entry.isascii() or any(character in entry for character in "/: "):
                    raise ValueError(f"{entry!r} is neither a host nor a network such as 10.1.0.0/16") from None
                self._hosts.add(entry.lower())

    async def check(self, url: str) -> Target:
        """Resolve and check. Raises InvalidRequestError (WEBHOOK_URL_REJECTED), or OSError if the name can't be resolved."""
        scheme, host, port, path = parse_webhook_url(url)
        listed = host in self._hosts
        if scheme == "http" and not (listed or self._networks or self._allow_loopback):
            raise reject_webhook("webhook.url must begin with https://")
        async with asyncio.timeout(RESOLVE_SECONDS):
            found = await self._resolve(host, port)
        if not found:
            raise OSError(f"{host} has no address")
        for address in found:
            if not listed and not self._allows(scheme, ipaddress.ip_address(address)):
                raise reject_webhook("webhook.url leads to an address that this server does not send to")
        return Target(scheme, host, port, path, tuple(found))

    def _allows(self, scheme: str, address: Address) -> bool:
        inner = _unwrap(address)
        if any(inner.version == network.version and inner in network for network in self._networks):
            return True
        if inner.is_loopback:
            return self._allow_loopback
        if isinstance(inner, ipaddress.IPv6Address) and inner.is_site_local:
            return False  # private once, and for Python's `is_global` public
        return scheme == "https" and inner.is_global and not inner.is_multicast and not inner.is_reserved


def _unwrap(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one stands for, if it does: routers and kernels take it for that one."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else address)
    return address


async def _resolve(host: str, port: int) -> Sequence[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # A scope ("fe80::1%eth0") only ever stands at link-local addresses.
    return [str(entry[4][0]).partition("%")[0] for entry in found]
