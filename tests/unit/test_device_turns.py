"""Whose turn it is on a device: batches one after the other, and none behind one that takes for ever."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from accelerator_autopilot.inference.worker.application.kind_turns import MAX_LONG_BATCHES, KindTurns
from tests.support.waiting import eventually


async def test_short_batches_run_one_after_the_other_in_the_order_in_which_they_asked() -> None:
    turns, running, order = KindTurns(5.0), 0, []

    async def batch(number: int) -> None:
        nonlocal running
        async with turns.turn():
            running += 1
            assert running == 1
            await asyncio.sleep(0.01)
            order.append(number)
            running -= 1

    await asyncio.gather(*(batch(number) for number in range(10)))
    assert order == list(range(10))


async def test_a_long_batch_passes_its_turn_on_and_so_many_at_most() -> None:
    turns = KindTurns(0.05)
    began: list[int] = []
    end = [asyncio.Event() for _ in range(MAX_LONG_BATCHES + 2)]

    async def batch(number: int) -> None:
        async with turns.turn():
            began.append(number)
            await end[number].wait()

    tasks = [asyncio.create_task(batch(number)) for number in range(MAX_LONG_BATCHES + 2)]
    await eventually(lambda: len(began) == MAX_LONG_BATCHES + 1)
    await asyncio.sleep(0.2)
    assert began == list(range(MAX_LONG_BATCHES + 1))
    end[0].set()
    await eventually(lambda: len(began) == MAX_LONG_BATCHES + 2)
    for event in end:
        event.set()
    await asyncio.gather(*tasks)
    # Whatever order they ended in, the device is free again and one at a time has it.
    async with AsyncExitStack() as stack:
        await asyncio.wait_for(stack.enter_async_context(turns.turn()), 1)


@pytest.mark.parametrize("after_s", [0.0, 0.02, 0.05])
async def test_a_batch_that_fails_or_is_cancelled_gives_its_turn_back_once(after_s: float) -> None:
    turns = KindTurns(0.02)

    async def fails() -> None:
        async with turns.turn():
            await asyncio.sleep(after_s)
            raise ValueError

    for _ in range(3):
        with pytest.raises(ValueError):
            await fails()
    held = asyncio.create_task(fails())
    await asyncio.sleep(0)
    held.cancel()
    await asyncio.gather(held, return_exceptions=True)
    entered = 0

    async def enters() -> None:
        nonlocal entered
        async with turns.turn():
            entered += 1
            assert entered == 1
            await asyncio.sleep(0.005)
            entered -= 1

    await asyncio.wait_for(asyncio.gather(enters(), enters()), 2)
