"""The machine that measures: its processor, and its threads held to one."""

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def processor() -> str:
    """The processor's name: the system's own word where there is one, else the architecture."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text(encoding="utf-8").splitlines() if described.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes with one thread: sums are taken in the same order wherever a cell is computed."""
    torch = sys.modules.get("torch")  # what isn't loaded can't be used
    before = torch.get_num_threads() if torch else 1
    if torch:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if torch:
            torch.set_num_threads(before)
