"""Who we are: tokens that are asked anew, and those that are refused."""

import asyncio
from typing import Any

import pytest

from ds_sync.environment import Environment
from ds_sync.exceptions import (
    SyncStoppedError,
    UnauthorizedError,
)
from ds_sync.testing.faults import (
    Fault,
    Request,
    respond,
)

pytestmark = pytest.mark.anyio


def _guard(network: Any, token: str) -> None:
    def stranger(request: Request) -> bool:
        return request.headers.get("authorization") != f"Bearer {token}"

    network.inject(respond(401), when=stranger, times=None)


async def test_a_token_that_is_a_callable_is_asked_again(world: Any, acts: Any) -> None:
    network = world.network()
    _guard(network, "new")
    tokens = ["old", "new"]
    asked: list[str] = []

    async def fetch() -> str:
        asked.append(tokens[min(len(asked), 1)])
        return asked[-1]

    note = await (await world.replica("a", transport=network, token=fetch)).open("note")
    acts.write(note, "mine")
    await acts.synced(note)
    assert asked == ["old", "new"]
    assert len(await world.payloads()) == 1


async def test_a_wrong_token_pauses_and_says_so_and_connect_with_another_goes_on(world: Any, acts: Any) -> None:
    network = world.network()
    _guard(network, "right")
    seen: list[str | None] = []
    network.inject(Fault(), when=lambda request: bool(seen.append(request.headers.get("x-tenant"))), times=None)
    replica = await world.replica("a", transport=network, environment=Environment(), token="wrong", headers={"x-tenant": "t1"})
    note = await replica.open("note")
    acts.write(note, "mine")
    with pytest.raises(SyncStoppedError) as stopped:
        await acts.synced(note)
    assert stopped.value.state == "unauthorized"
    assert isinstance(note.status.last_error, UnauthorizedError)
    requests = len(network.requests)
    await asyncio.sleep(0.35)
    assert len(network.requests) - requests <= 5, "asked again every 0.1 s at most"
    await replica.connect(token="right")
    await acts.synced(note)
    assert {request.headers.get("x-tenant") for request in network.requests} == {"t1"}, "headers stay when only the token is new"
    assert len(await world.payloads()) == 1
