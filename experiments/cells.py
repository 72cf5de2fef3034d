"""A grid of cells, each a pure function's call, mapped over Dask; finished cells are kept and never redone.

    table = cells.measure(lookup.measure, cells.grid(d_k=[8, 64], learning_rate=rates, seeds=[[0, 1]]))

The command line hands a kernel the address of a scheduler. Without one (a notebook run by hand, or by nbval)
the kernel computes cell after cell itself. The rows are the same.
"""

import importlib
import itertools
import json
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd

from . import journal, machine, sources, store

SCHEDULER, FRESH = "SELFATTN_SCHEDULER", "SELFATTN_FRESH"


class CellFailed(RuntimeError):
    """A cell raised, or its worker died again and again."""


def grid(**axes: Any) -> list[dict[str, Any]]:
    """Every combination of the axes' values, the last axis fastest.

    A list, tuple or range is an axis; anything else is the same in every cell. For a parameter that is a list
    itself, write a list of lists. Raises `ValueError` when an axis has no values.

    >>> grid(layers=[1, 2], seeds=[[0, 1]], steps=400)
    [{'layers': 1, 'seeds': [0, 1], 'steps': 400}, {'layers': 2, 'seeds': [0, 1], 'steps': 400}]
    """
    values = {
        name: list(axis) if isinstance(axis, list | tuple | range) else [axis] for name, axis in axes.items()
    }
    if empty := [name for name, axis in values.items() if not axis]:
        raise ValueError(f"an empty grid: {', '.join(empty)} has no values")
    return [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]


def measure(function: Callable[..., list[dict[str, Any]]], cells: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One table of the rows that `function(**cell)` returns, beside their cells' parameters, in order.

    `function` lives in a module of the project and is pure: parameters and rows are plain data (what JSON can
    hold), and equal parameters give equal rows. Parameters that are lists, such as seeds, are no columns: the
    rows tell. Raises `ValueError` for an empty grid or a function that isn't the project's, `TypeError` for
    parameters that aren't plain data, `CellFailed` when a cell raises; what was finished until then is kept.
    """
    name = f"{function.__module__}.{function.__qualname__}"
    made_from = sources.made_from(function.__module__)
    asked = [store.Cell(name, _plain(parameters), made_from) for parameters in cells]
    if not asked:
        raise ValueError(f"an empty grid: there is no cell to measure {name} at")
    results = {} if os.environ.get(FRESH) else {cell.path: kept for cell in asked if (kept := _kept(cell))}
    missing = {cell.path: cell for cell in asked if cell.path not in results}
    journal.tell(cells=len(results) + len(missing), kept=len(results))
    for kept in results.values():
        journal.tell(seconds=kept["seconds"], processor=kept["processor"])
    for cell, result in _computed(list(missing.values())):
        store.write(cell, result)
        journal.tell(computed=1, seconds=result["seconds"], processor=result["processor"])
        results[cell.path] = result
    return pd.DataFrame(
        [
            {key: value for key, value in cell.parameters.items() if not isinstance(value, list)} | row
            for cell in asked
            for row in results[cell.path]["rows"]
        ]
    )


def _plain(parameters: dict[str, Any]) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(parameters, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(f"the parameters of a cell are plain data; got {parameters!r} ({error})") from error


def _kept(cell: store.Cell) -> dict[str, Any] | None:
    try:
        return store.read(cell)
    except store.Unusable as problem:
        remark = f"{problem}; the cell is computed again"
        if journal.PLACE in os.environ:
            journal.tell(remark=remark)
        else:
            warnings.warn(remark, stacklevel=3)
        return None


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
    clashing = sorted({key for row in rows for key in row} & parameters.keys())
    if clashing:
        raise ValueError(f"rows of {function} repeat its parameters {', '.join(clashing)}")
    seconds = round(time.perf_counter() - start, 3)
    return {"rows": json.loads(json.dumps(rows)), "seconds": seconds, "processor": machine.processor()}


@contextmanager
def _naming(cell: store.Cell) -> Iterator[None]:
    """Say in which cell it was that something was raised."""
    try:
        yield
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        raise CellFailed(f"{cell.function} at {cell.parameters} raised {said}") from error


def _computed(missing: list[store.Cell]) -> Iterator[tuple[store.Cell, dict[str, Any]]]:
    """Each missing cell with its result, in the order in which they finish."""
    address = os.environ.get(SCHEDULER)
    if not missing:
        return
    if not address:
        for cell in missing:
            with _naming(cell):
                result = compute(cell.function, cell.parameters, cell.made_from)
            yield cell, result
        return
    from distributed import Client, as_completed  # a second's import, for those who have a cluster

    with Client(address, set_as_default=False) as client:
        # One name for all of them: Dask then hands a worker its next task when it is idle, not before.
        tasks = {
            client.submit(
                compute, cell.function, cell.parameters, cell.made_from, key=("cell", cell.path.stem)
            ): cell
            for cell in missing
        }
        for future in as_completed(tasks, loop=client.loop):
            with _naming(tasks[future]):
                result = future.result()
            yield tasks[future], result
