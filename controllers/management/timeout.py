"""Waiting for a limited time, in tasks that others cancel.

``asyncio.wait_for`` may forget that its task was cancelled, when what it waits for is done in the same moment (before
Python 3.12): a task that goes on in a loop would then never end. ``asyncio.wait`` does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Return what *work* returns, or raise what it raises. Raises asyncio.TimeoutError if it takes too long."""
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait([task], timeout=seconds)
        if not done:
            raise asyncio.TimeoutError
        return task.result()
    finally:
        task.cancel()


async def until(event: asyncio.Event, seconds: float | None) -> None:
    """Wait until *event* is set, but not longer than so many seconds."""
    task = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait([task], timeout=seconds)
    finally:
        task.cancel()
