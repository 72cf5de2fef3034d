"""Are a notebook's stored outputs as new as everything that they were made from?

A notebook's inputs are its own code cells, the project's modules that it loads (directly or through each
other), the packages that it and these modules import, with their versions, and the recorded results whose
path it names (`experiments/*/results` names them all). When a notebook is executed, a digest of each is
stored in its metadata; it is stale when one of them has another digest now. A page about the chapters, whose
code names `../book/`, depends on their text too.
"""

import json
import re
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager

from . import sources


def _sources(path: Path, kind: str) -> list[str]:
    return [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == kind]


def _named(path: Path) -> set[str]:
    plain = (TransformerManager().transform_cell(cell) for cell in _sources(path, "code"))
    return set().union(*map(sources.named, plain))


def loaded(path: Path) -> set[str]:
    """Every module of the project that running the notebook loads."""
    return sources.closure(_named(path))


def inputs(path: Path) -> dict[str, str]:
    """What the outputs of this notebook depend on, each with a digest of what it is now."""
    code = "\0".join(_sources(path, "code"))
    named = _named(path)
    modules = sources.closure(named)
    files = set(map(sources.file, modules))
    for recorded in re.findall(r"(?:experiments/[\w*]+/results|benchmarks/\w+\.csv)[\w/.*-]*", code):
        for place in sources.ROOT.glob(recorded):
            inside = place.rglob("*") if place.is_dir() else [place]
            files |= {str(file.relative_to(sources.ROOT)) for file in inside}
    present = {file for file in files if (sources.ROOT / file).is_file()}
    chapters = (sources.ROOT / "book").glob("[0-9]*.ipynb") if "../book/" in code else []
    text = {
        f"text of {path.stem}": sources.digest("\0".join(_sources(path, "markdown"))) for path in chapters
    }
    packages = sources.versions(named | modules)
    return {"cells": sources.digest(code)} | sources.digests(present) | packages | text


def fingerprint(found: dict[str, str]) -> str:
    """One digest of all inputs: the code, the packages and the results that a run was made from."""
    return sources.digest(json.dumps(found, sort_keys=True))


def stale(path: Path) -> list[str]:
    """What has changed since the notebook's outputs were stored; empty when they are fresh."""
    stored = nbformat.read(path, 4).metadata.get("selfattn", {}).get("inputs", {})
    current = inputs(path)
    return sorted(name for name in stored.keys() | current.keys() if stored.get(name) != current.get(name))
