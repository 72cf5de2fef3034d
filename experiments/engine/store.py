"""Finished cells, one small JSON file each, so that nothing is computed twice.

A file's name is a digest of everything that decides its rows: the function, its parameters, and what it is
made from (sources, versions). Other code asks under another name and never meets an old result. Files
appear whole or not at all, and what is read is compared with what was asked for.
"""

import json
import os
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import sources

PLACE = "SELFATTN_CELLS"


class Unusable(ValueError):
    """There is a file under the cell's name, but the cell is not in it."""


@dataclass(frozen=True)
class Cell:
    """A function, the parameters that it is called with, and what its results are made from."""

    function: str
    parameters: dict[str, Any]
    made_from: dict[str, str]

    @property
    def path(self) -> Path:
        """Where the cell is kept once it is finished."""
        return folder() / f"{sources.digest(json.dumps(asdict(self), sort_keys=True))}.json"


def folder() -> Path:
    """The store: what the command says, else `runs/cells` in the project."""
    return Path(os.environ.get(PLACE, sources.ROOT / "runs" / "cells"))


def write_whole(path: Path, text: str) -> None:
    """Write a text file in one step: whoever reads it, after a crash too, meets all of it or what was before.

    Raises `OSError` with the file's name when the disk is full, and leaves nothing half-written.
    """
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        draft.unlink(missing_ok=True)


def write(cell: Cell, result: dict[str, Any]) -> None:
    """Keep a finished cell: its rows, its seconds, the processor that computed it."""
    write_whole(cell.path, json.dumps(asdict(cell) | result) + "\n")


def read(cell: Cell) -> dict[str, Any] | None:
    """What was kept of this cell, or None. Raises `Unusable` for a truncated or a foreign file."""
    if not cell.path.exists():
        return None
    kept = _contents(cell.path)
    if any(kept[key] != value for key, value in asdict(cell).items()):
        raise Unusable(f"{cell.path} holds another cell")
    return kept


def _contents(path: Path) -> dict[str, Any]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        whole = {"function", "parameters", "made_from", "rows", "seconds", "processor"} <= kept.keys()
    except (ValueError, AttributeError, OSError) as error:
        raise Unusable(f"{path} is no finished cell ({error})") from error
    if not whole:
        raise Unusable(f"{path} is no finished cell (it lacks fields)")
    return kept


def status(folder: Path) -> list[dict[str, Any]]:
    """The finished cells of each function: how many are fresh, how many older than which changed inputs."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            kept = _contents(path)
        except Unusable:
            kept = {"function": "unusable", "made_from": {}}
        entry = found.setdefault(kept["function"], {"fresh": 0, "older": 0, "changed": set()})
        changed = _changed(kept["function"], kept["made_from"])
        entry["older" if changed else "fresh"] += 1
        entry["changed"] |= changed
    return [
        {"function": name} | entry | {"changed": sorted(entry["changed"])} for name, entry in found.items()
    ]


def _changed(function: str, made_from: dict[str, str]) -> set[str]:
    try:
        current = sources.made_from(function.rpartition(".")[0])
    except ValueError:
        return {function}  # the function, or its module, is gone
    return {name for name in made_from.keys() | current.keys() if made_from.get(name) != current.get(name)}
