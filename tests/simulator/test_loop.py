import asyncio
import time

import pytest

from ds_sync.testing.simulator.loop import StuckError, VirtualLoop


def test_a_day_passes_in_no_time() -> None:
    loop, began = VirtualLoop(), time.monotonic()
    loop.run_until_complete(asyncio.sleep(86_400))
    assert loop.time() == pytest.approx(86_400)
    assert time.monotonic() - began < 1.0
    loop.close()


def test_timers_go_off_in_order() -> None:
    loop, order = VirtualLoop(), list[tuple[float, str]]()

    async def wait(seconds: float, name: str) -> None:
        await asyncio.sleep(seconds)
        order.append((round(loop.time(), 6), name))

    async def main() -> None:
        await asyncio.gather(wait(3.0, "c"), wait(1.0, "a"), wait(2.0, "b"))

    loop.run_until_complete(main())
    assert order == [(1.0, "a"), (2.0, "b"), (3.0, "c")]
    loop.close()


def test_waiting_for_nothing_is_noticed() -> None:
    loop = VirtualLoop()
    with pytest.raises(StuckError, match="no timer"):
        loop.run_until_complete(loop.create_future())
    loop.close()


def test_going_round_in_circles_is_noticed() -> None:
    loop = VirtualLoop(max_turns=100)

    def spin() -> None:
        loop.call_soon(spin)

    spin()
    with pytest.raises(StuckError, match="circles"):
        loop.run_forever()
    loop.close()
