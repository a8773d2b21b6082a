from __future__ import annotations

import asyncio
import threading
import time

import pytest

from ds_sync.replica.signal import Signal

pytestmark = pytest.mark.anyio


async def waiting(signal: Signal, count: int) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(signal.wait()) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def test_a_change_wakes_all_who_wait_once() -> None:
    signal = Signal()
    tasks = await waiting(signal, 3)
    signal.notify()
    async with asyncio.timeout(5):
        await asyncio.gather(*tasks)
    [late] = await waiting(signal, 1)
    await asyncio.sleep(0.01)
    assert not late.done()
    signal.notify()
    async with asyncio.timeout(5):
        await late


async def test_waiting_ends_after_the_timeout_without_a_change() -> None:
    signal = Signal()
    start = time.monotonic()
    await signal.wait(0.02)
    assert 0.015 < time.monotonic() - start < 5
    assert signal._waiters == []


async def test_who_is_cancelled_leaves_nothing_behind() -> None:
    signal = Signal()
    [first, second] = await waiting(signal, 2)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert len(signal._waiters) == 1
    signal.notify()
    async with asyncio.timeout(5):
        await second


async def test_another_thread_wakes_those_who_wait() -> None:
    signal = Signal()
    tasks = await waiting(signal, 2)
    thread = threading.Thread(target=signal.notify)
    thread.start()
    async with asyncio.timeout(5):
        await asyncio.gather(*tasks)
    thread.join()


async def test_a_change_by_another_thread_between_looking_and_waiting_is_not_missed() -> None:
    """There is no await between the two, but another thread needs none."""
    signal, state = Signal(), list[str]()

    def change() -> None:
        state.append("changed")
        signal.notify()

    assert state == []
    thread = threading.Thread(target=change)
    thread.start()
    thread.join()
    async with asyncio.timeout(5):
        await signal.wait()
    assert state == ["changed"]


async def test_later_calls_come_on_the_loops_thread_from_wherever_they_are_asked_for() -> None:
    signal, threads, done = Signal(), list[int](), asyncio.Event()

    def call() -> None:
        threads.append(threading.get_ident())
        if len(threads) == 2:
            done.set()

    signal.call_later(0.01, call)
    thread = threading.Thread(target=signal.call_later, args=(0.01, call))
    thread.start()
    async with asyncio.timeout(5):
        await done.wait()
    thread.join()
    assert threads == [threading.get_ident()] * 2


def test_after_the_loop_has_ended_another_thread_may_still_tell() -> None:
    async def make() -> Signal:
        return Signal()

    signal, failed = asyncio.run(make()), list[BaseException]()

    def tell() -> None:
        try:
            signal.notify()
            signal.call_later(0.0, lambda: None)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=tell)
    thread.start()
    thread.join()
    assert failed == []
