"""The cells of a published run, kept beside its tables: `results/cells.jsonl`, one cell a line.

A line has the function, its parameters, the rows at full precision, and the seconds and the processor that
they took. The lines are sorted: equal runs give equal files, but for the times.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

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
