"""A grid of cells, each a call of a pure function; what is finished is kept and never computed again.

table = cells.measure(measure.train, cells.grid(d_k=[8, 64], learning_rate=rates, seeds=[[0, 1]]))
"""

import itertools
import json
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from . import agreement, computing, journal, published, sources, store

FRESH = "SELFATTN_FRESH"  # compute every cell, whatever is kept: `--fresh`, `make verify`


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
    parameters that aren't plain data, `computing.CellFailed` when a cell raises; what is finished stays kept.
    With `SELFATTN_RECORD` in the environment the rows are the published run's.
    """
    name = f"{function.__module__}.{function.__qualname__}"
    made_from = sources.made_from(function.__module__)
    asked = [store.Cell(name, _plain(parameters), made_from) for parameters in cells]
    if not asked:
        raise ValueError(f"an empty grid: there is no cell to measure {name} at")
    again = os.environ.get(published.AGAIN)
    results = _published(asked, again) if again else _computed(asked)
    journal.tell(measured=list(results.values()))
    return pd.DataFrame(
        [
            {key: value for key, value in cell.parameters.items() if not isinstance(value, list)} | row
            for cell in asked
            for row in results[cell.path]["rows"]
        ]
    )


def _computed(asked: list[store.Cell]) -> dict[Path, dict[str, Any]]:
    """The results of these cells, kept ones from the store."""
    results = {} if os.environ.get(FRESH) else {cell.path: kept for cell in asked if (kept := _kept(cell))}
    missing = {cell.path: cell for cell in asked if cell.path not in results}
    journal.tell(cells=len(results) + len(missing), kept=len(results))
    for cell, result in computing.results(list(missing.values())):
        store.write(cell, result)
        journal.tell(computed=1)
        results[cell.path] = asdict(cell) | result
    return results


def _published(asked: list[store.Cell], again: str) -> dict[Path, dict[str, Any]]:
    """What the notebook's published run recorded of these cells, after some were computed again and agreed.

    The record lies in `results`, beside the notebook in whose folder its kernel runs. Raises
    `agreement.Disagreement` when a cell doesn't agree, or isn't there.
    """
    record = published.read(Path("results"))
    named = [(cell, published.key(cell.function, cell.parameters)) for cell in asked]
    lacking = {name for _, name in named if name not in record}
    if lacking and again != "none":
        remedy = f"`python -m experiments refresh --full {Path.cwd().name}` makes it anew"
        raise agreement.Disagreement(f"the record lacks {min(lacking)}; {remedy}")
    if again == "arms" and any(agreement.kind(cell.function) == "timed" for cell in asked):
        raise agreement.Disagreement("other code takes other times, which no sample could check")
    due = published.chosen(again, record) | lacking
    results = {cell.path: record[name] for cell, name in named if name not in due}
    journal.tell(cells=len(results), kept=len(results))
    computed = _computed([cell for cell, name in named if name in due])
    for cell, name in named:
        if name in due - lacking:
            line, rows = record[name], computed[cell.path]["rows"]
            arm = [one["rows"] for one in record.values() if published.arm(one) == published.arm(line)]
            if said := agreement.difference(cell.function, rows, line["rows"], arm):
                raise agreement.Disagreement(f"{name} disagrees with the record: {said}")
            computed[cell.path] = line
    return results | computed


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
