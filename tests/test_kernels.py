"""How a notebook's kernel ends."""

import asyncio
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from experiments.engine.kernels import Kernel


async def interruptions(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, shut_down: bool) -> list[int]:
    """Its interruptions, when it is told to stop what it does or only to end."""
    sent = []
    await kernel.start_kernel()
    deliver = kernel.provisioner.send_signal

    async def recorded(number: int) -> None:
        sent.append(number)
        await deliver(number)

    monkeypatch.setattr(kernel.provisioner, "send_signal", recorded)
    if not shut_down:
        await kernel.interrupt_kernel()
    await kernel.shutdown_kernel(now=True)
    return [number for number in sent if number == signal.SIGINT]


@pytest.mark.parametrize(("shut_down", "expected"), [(True, []), (False, [signal.SIGINT])])
def test_a_kernel_that_ends_is_not_interrupted(
    monkeypatch: pytest.MonkeyPatch, shut_down: bool, expected: list[int]
) -> None:
    kernel = Kernel(kernel_name="python3")
    with ThreadPoolExecutor() as thread:  # in this one a browser's loop may run, after other tests
        sent = thread.submit(asyncio.run, interruptions(kernel, monkeypatch, shut_down)).result()
    assert sent == expected
