"""Notebooks with parameters: what they accept and what they recorded."""

import ast
import json
import math
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd

from . import store
from .claims import RECORD
from .sources import ROOT

QUESTIONS = sorted((ROOT / "experiments").glob("*/*.ipynb"))
EXPERIMENTS = {path.stem: path for path in QUESTIONS if path.stem == path.parent.name}
CHAPTERS = {path.stem: path for path in sorted((ROOT / "book").glob("*.ipynb"))}


class Refused(ValueError):
    """The request can't be carried out as it was said; nothing has been started."""


def title(path: Path) -> str:
    """The text of the notebook's first heading."""
    lines = (line for cell in nbformat.read(path, 4).cells for line in cell.source.splitlines())
    return next((line.removeprefix("# ") for line in lines if line.startswith("# ")), path.stem)


def _assignments(path: Path, tag: str) -> dict[str, Any]:
    """The literal values that the cell with this tag assigns to names."""
    cells = [cell for cell in nbformat.read(path, 4).cells if tag in cell.metadata.get("tags", [])]
    tree = ast.parse(cells[0].source if cells else "")
    return {
        node.targets[0].id: ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign)
    }


def parameters(path: Path) -> dict[str, Any]:
    """The notebook's parameters with their default values, from the cell tagged `parameters`."""
    return _assignments(path, "parameters")


def profiles(path: Path) -> dict[str, dict[str, Any]]:
    """Named sets of parameters: `default` changes none, the others come from the cell tagged `profiles`."""
    return {"default": {}} | _assignments(path, "profiles").get("profiles", {})


def settings(name: str, profile: str = "default", changes: dict[str, str] | None = None) -> dict[str, Any]:
    """The parameters of one run: what the profile says, then `changes` as they were typed.

    Raises `Refused` for an unknown experiment, profile or parameter, or a value of another type.
    """
    if name not in EXPERIMENTS:
        raise Refused(f"unknown experiment {name!r}; there are {', '.join(EXPERIMENTS)}")
    path, changes = EXPERIMENTS[name], changes or {}
    defaults, known = parameters(path), profiles(path)
    if profile not in known:
        raise Refused(f"{name} has no profile {profile!r}; there are {', '.join(known)}")
    unknown = sorted(changes.keys() - defaults.keys())
    if unknown:
        raise Refused(f"{name} has no parameter {', '.join(unknown)}; there are {', '.join(defaults)}")
    typed = {key: _typed(f"{name}: {key}", text, defaults[key]) for key, text in changes.items()}
    return known[profile] | typed


def _typed(what: str, text: str, default: Any) -> Any:
    """The typed text as a value of the default's type; an integer passes for a float, a text for itself."""
    wanted, like = type(default), default[0] if isinstance(default, list) else default
    try:
        value = ast.literal_eval(text)
        items = list(value) if wanted is list and isinstance(value, list | tuple) else [value]
        items = [float(item) if type(like) is float and type(item) is int else item for item in items]
    except (ValueError, SyntaxError, TypeError, OverflowError, MemoryError, RecursionError):
        value, items = text, [text]  # no literal, or none that a computer can hold
    if wanted is str and not isinstance(value, str):
        value, items = text, [text]  # a word that looks like a number
    finite = all(not isinstance(item, float) or math.isfinite(item) for item in items)
    fits = items and finite and all(type(item) is type(like) for item in items)
    if not fits or (wanted is list) != isinstance(value, list | tuple):
        kind = f"list of {type(like).__name__}" if wanted is list else wanted.__name__
        raise Refused(f"{what} is a {kind}, such as {default!r}; got {text!r}")
    return items if wanted is list else items[0]


def record(path: Path) -> dict[str, Any] | None:
    """The record that an executed notebook carries in its outputs, if it has one."""
    outputs = (output for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", []))
    return next((output["data"][RECORD] for output in outputs if RECORD in output.get("data", {})), None)


def published(name: str) -> Path:
    """The folder in which an experiment's published run is recorded."""
    return EXPERIMENTS[name].parent / "results"


def save_record(path: Path, folder: Path, circumstances: dict[str, Any]) -> list[dict[str, Any]]:
    """Write the record of an executed notebook as text files into `folder` and return its claims."""
    recorded = record(path) or {"claims": [], "tables": {}}
    for name, csv in recorded["tables"].items():
        store.write_whole(folder / f"{name}.csv", csv)
    for name, content in (("claims", recorded["claims"]), ("run", circumstances)):
        store.write_whole(folder / f"{name}.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return recorded["claims"]


def results(name: str) -> tuple[list[dict[str, Any]], dict[str, pd.DataFrame], dict[str, Any]]:
    """What the published run of an experiment recorded: its claims, its tables and its circumstances."""
    folder = published(name)
    if not (folder / "claims.json").exists():
        raise Refused(f"{name} has no published results; `python -m experiments refresh {name}` makes them")
    tables = {path.stem: pd.read_csv(path) for path in sorted(folder.glob("*.csv"))}
    return (
        json.loads((folder / "claims.json").read_text(encoding="utf-8")),
        tables,
        json.loads((folder / "run.json").read_text(encoding="utf-8")),
    )
