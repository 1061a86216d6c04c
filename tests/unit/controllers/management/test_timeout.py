"""Waiting for a limited time."""

from __future__ import annotations

import asyncio

import pytest

from controllers.management.timeout import until, within

LONG = 30.0


def test_work_in_time_gives_its_result_or_its_error() -> None:
    async def work(fails: bool) -> int:
        if fails:
            raise ValueError("no")
        return 7

    assert asyncio.run(within(LONG, work(False))) == 7
    with pytest.raises(ValueError, match="no"):
        asyncio.run(within(LONG, work(True)))


def test_work_that_takes_too_long_is_ended() -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append(True)

    async def run() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await within(0.001, work())

    asyncio.run(run())
    assert ended == [True]


def test_an_event_or_the_time_ends_the_wait() -> None:
    async def run() -> None:
        event = asyncio.Event()
        await until(event, 0.001)
        event.set()
        await until(event, LONG)
        await until(event, None)

    asyncio.run(run())


@pytest.mark.parametrize("what", ["event", "work"])
def test_a_cancellation_in_the_moment_of_success_is_not_forgotten(what: str) -> None:
    async def run() -> bool:
        event = asyncio.Event()

        async def wait() -> None:
            await (until(event, LONG) if what == "event" else within(LONG, event.wait()))

        task = asyncio.ensure_future(wait())
        for _ in range(5):  # turns of the loop, until it waits
            await asyncio.sleep(0)
        event.set()
        await asyncio.sleep(0)  # what it waits for is done now
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert asyncio.run(run())
