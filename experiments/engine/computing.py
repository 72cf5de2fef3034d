"""Who computes cells: the workers of a Dask cluster, or, without one, this process.

The command line hands a kernel the address of a scheduler. A notebook run by hand, or by nbval, computes cell
after cell in its own kernel. The rows are the same.
"""

import importlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from . import machine, sources
from .store import Cell

SCHEDULER = "SELFATTN_SCHEDULER"


class CellFailed(RuntimeError):
    """A cell raised, or its worker died again and again."""


def compute(function: str, parameters: dict[str, Any], made_from: dict[str, str]) -> dict[str, Any]:
    """What a worker does for one cell: make sure that it runs the code that is meant, and call the function.

    Returns plain data. Raises `sources.DifferentCode` on a worker with other sources or versions.
    """
    sources.check(made_from)
    module, _, name = function.rpartition(".")
    call = getattr(importlib.import_module(module), name)
    start = time.perf_counter()
    with machine.one_thread():
        rows = call(**parameters)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise TypeError(f"{function} returns no list of rows (dicts) but {rows!r:.80}")
    if clashing := sorted({key for row in rows for key in row} & parameters.keys()):
        raise ValueError(f"rows of {function} repeat its parameters {', '.join(clashing)}")
    seconds = round(time.perf_counter() - start, 3)
    return {"rows": json.loads(json.dumps(rows)), "seconds": seconds, "processor": machine.processor()}


@contextmanager
def _naming(cell: Cell) -> Iterator[None]:
    """Say in which cell it was that something was raised."""
    try:
        yield
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        raise CellFailed(f"{cell.function} at {cell.parameters} raised {said}") from error


def results(missing: list[Cell]) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Each missing cell with its result, in the order in which they finish. Raises `CellFailed`."""
    address = os.environ.get(SCHEDULER)
    return _by_workers(missing, address) if address and missing else _by_this_process(missing)


def _by_this_process(missing: list[Cell]) -> Iterator[tuple[Cell, dict[str, Any]]]:
    for cell in missing:
        with _naming(cell):
            result = compute(cell.function, cell.parameters, cell.made_from)
        yield cell, result


def _by_workers(missing: list[Cell], address: str) -> Iterator[tuple[Cell, dict[str, Any]]]:
    from distributed import Client, as_completed  # a second's import, for those who have a cluster

    with Client(address, set_as_default=False) as client:
        tasks = {}
        for cell in missing:
            key = (
                "cell",
                cell.path.stem,
            )  # one name for all: workers then ask for the next one when idle
            tasks[client.submit(compute, cell.function, cell.parameters, cell.made_from, key=key)] = cell
        for future in as_completed(tasks, loop=client.loop):
            with _naming(tasks[future]):
                result = future.result()
            yield tasks[future], result
