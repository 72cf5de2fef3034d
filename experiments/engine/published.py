"""The cells of a published run, kept beside its tables: `results/cells.jsonl`, one cell a line.

A line has the function, its parameters, the rows at full precision, and the seconds and the processor that
they took. The lines are sorted: equal runs give equal files, but for the times.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import sources

AGAIN = (
    "SELFATTN_RECORD"  # serve cells from the record; its value says which are computed again, see `chosen`
)
SAMPLE, ONE, ARMS = 4, 10, 60  # seconds
FILE = "cells.jsonl"
FIELDS = ("function", "parameters", "rows", "seconds", "processor")


def key(function: str, parameters: dict[str, Any]) -> str:
    """The name under which a record holds a cell.

    >>> key("experiments.heads.measure.train", {"seeds": [1], "d_k": 8})
    'experiments.heads.measure.train {"d_k": 8, "seeds": [1]}'
    """
    return f"{function} {json.dumps(parameters, sort_keys=True, ensure_ascii=False)}"


def by_key(lines: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each cell under its name, in the names' order; one that was measured twice is there once."""
    named = {key(line["function"], line["parameters"]): line for line in lines}
    return dict(sorted(named.items()))


def text(lines: Iterable[dict[str, Any]]) -> str:
    """The record's text."""
    chosen = ({field: line[field] for field in FIELDS} for line in by_key(lines).values())
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in chosen)


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The cells that a folder of results records, by their names; none where there is no record."""
    path = folder / FILE
    if not path.exists():
        return {}
    return by_key(map(json.loads, path.read_text(encoding="utf-8").splitlines()))


def arm(line: dict[str, Any]) -> str:
    """A cell's name without its seeds: cells of one arm differ in nothing else."""
    return key(line["function"], {name: at for name, at in line["parameters"].items() if name != "seeds"})


def code(cells: dict[str, dict[str, Any]]) -> dict[str, str]:
    """What a record's functions are made from now. Raises `ValueError` when a module of theirs is gone."""
    found: dict[str, str] = {}
    for function in {line["function"] for line in cells.values()}:
        found |= sources.made_from(function.rpartition(".")[0])
    return dict(sorted(found.items()))


def standing(folder: Path) -> tuple[str, dict[str, dict[str, str]]]:
    """How a record may be served to the present code, and by which code it is then computed and checked.

    `none`: it is the code that computed or checked it, and no cell needs to be computed again. `arms`: it is
    other code, and the record is carried over if the cells so `chosen` agree. Empty: it can't be served.
    """
    cells = read(folder)
    try:
        by = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        by = {word: by[word] for word in ("computed_by", "checked_by") if word in by}
        now = code(cells)
    except (FileNotFoundError, ValueError):  # a function of the record is gone
        return "", {}
    if not cells or "computed_by" not in by:
        return "", {}
    return ("none", by) if now in by.values() else ("arms", by | {"checked_by": now})


def chosen(which: str, cells: dict[str, dict[str, Any]]) -> set[str]:
    """The names of the cells that are computed again, to see whether they agree with the record.

    `none` and `all` say so themselves. `sample` takes cells in an order that a digest of the code and of the
    record gives, as long as they took `SAMPLE` seconds in all, or one that took at most `ONE`: an unchanged
    commit always takes the same.
    `arms` takes the cheapest cell of each arm, the cheapest arms first, up to `ARMS` seconds, one at least.
    """
    if which in ("none", "all"):
        return set(cells) if which == "all" else set()
    if which == "sample":
        files = {name: digest for name, digest in code(cells).items() if "/" in name}
        salt = sources.digest(json.dumps(files) + text(cells.values()))
        order = sorted(cells, key=lambda name: sources.digest(salt + name))
        return set(_within(SAMPLE, order, cells) or _within(ONE, order, cells)[:1])
    cheapest: dict[str, str] = {}
    for name in sorted(cells, key=lambda name: cells[name]["seconds"]):
        cheapest.setdefault(arm(cells[name]), name)
    order = list(cheapest.values())
    return set(_within(ARMS, order, cells) or order[:1])


def _within(budget: float, order: list[str], cells: dict[str, dict[str, Any]]) -> list[str]:
    """Those of these cells that fit into so many seconds, the first ones first."""
    taken = []
    for name in order:
        if cells[name]["seconds"] <= budget:
            budget -= cells[name]["seconds"]
            taken.append(name)
    return taken
