"""Does a cell that was computed again agree with the record?

What may differ is stated where a function is defined: its module's `TRAINED` names the functions that train
models, `TIMED` those that take times. All others are deterministic: only rounding differs between processors.
"""

import importlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from statistics import fmean
from typing import Any

RELATIVE, ABSOLUTE = 1e-4, 1e-9  # how far a deterministic number may be from the recorded one
WIDER, SHARE = 2.0, 0.1  # a published range is taken this much wider: of its width, of its ends

Row = dict[str, Any]


class Disagreement(RuntimeError):
    """A record isn't what the code gives, or doesn't hold what is asked for."""


def kind(function: str) -> str:
    """What the function's module says of it: trained, timed, else deterministic."""
    module, _, name = function.rpartition(".")
    said = importlib.import_module(module)
    kinds = {"trained": getattr(said, "TRAINED", ()), "timed": getattr(said, "TIMED", ())}
    return next((kind for kind, names in kinds.items() if name in names), "deterministic")


def difference(function: str, rows: list[Row], recorded: list[Row], arm: list[list[Row]]) -> str | None:
    """The first thing in which a cell's new rows don't agree with those recorded; None when they do.

    A deterministic function gives the same numbers, but for rounding. A trained model's numbers lie in the
    range of its arm: what the record's seeds have in the same row of a seed, a curve by its mean. Rounding
    grows while a model trains: on another processor a seed at the end of the range leaves it. `arm` has the
    rows of all its cells. Times are positive.
    """
    if len(rows) != len(recorded):
        return f"{len(rows)} rows, not {len(recorded)}"
    of_kind = kind(function)
    ranges = _ranges(arm) if of_kind == "trained" else {}
    for (rank, row), old in zip(_ranked(rows), recorded, strict=True):
        new, old = _compared(of_kind, row), _compared(of_kind, old)
        if new.keys() != old.keys() or row.get("seed") != old.get(("seed",), row.get("seed")):
            return f"a row of {_shown(row)}, not of the recorded seed and columns"
        for place, value in new.items():
            among = ranges[rank, place] if of_kind == "trained" else [old[place]]
            if not _agrees(of_kind, value, among):
                wanted = "a positive number" if of_kind == "timed" else _span(among)
                return f"{'.'.join(map(str, place))} = {value!r}, not {wanted}, in the row of {_shown(row)}"
    return None


def _compared(of_kind: str, row: Row) -> dict[tuple[Any, ...], Any]:
    if of_kind == "trained":
        row = {
            name: fmean(value) if isinstance(value, list) and value and all(map(_is_number, value)) else value
            for name, value in row.items()
        }
    return dict(_leaves(row))


def _leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Each plain value in a row, lists and dicts opened, and the way to it."""
    if not isinstance(value, dict | list):
        yield place, value
        return
    for key, inside in value.items() if isinstance(value, dict) else enumerate(value):
        yield from _leaves(inside, (*place, key))


def _ranked(rows: Iterable[Row]) -> Iterator[tuple[int, Row]]:
    """Each row, and the how manyeth of its seed it is: there, all seeds of an arm have comparable rows."""
    seen: Counter[Any] = Counter()
    for row in rows:
        yield seen[row.get("seed")], row
        seen[row.get("seed")] += 1


def _ranges(arm: list[list[Row]]) -> dict[tuple[int, tuple[Any, ...]], list[Any]]:
    found = defaultdict(list)
    for rows in arm:
        for rank, row in _ranked(rows):
            for place, value in _compared("trained", row).items():
                found[rank, place].append(value)
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _agrees(of_kind: str, value: Any, among: list[Any]) -> bool:
    if not _is_number(value):
        return value in among
    if of_kind == "timed":
        return math.isfinite(value) and value > 0 if isinstance(value, float) else value in among
    finite = [one for one in among if _is_number(one) and math.isfinite(one)]
    if not math.isfinite(value) or not finite:
        return repr(value) in map(repr, among)  # NaN and infinities
    low, high = min(finite), max(finite)
    if of_kind == "trained":
        slack = WIDER * (high - low) + SHARE * max(abs(low), abs(high))
    else:
        slack = RELATIVE * abs(low) + ABSOLUTE if isinstance(low, float) else 0
    return low - slack <= value <= high + slack


def _span(among: list[Any]) -> str:
    ends = sorted(set(among))
    return f"{ends[0]!r}" if len(ends) == 1 else f"within {ends[0]!r} … {ends[-1]!r}"


def _shown(row: Row) -> str:
    return ", ".join(f"{key} {value}" for key, value in row.items() if not isinstance(value, float | list))
