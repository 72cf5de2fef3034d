"""Are a notebook's stored outputs as new as everything that they were made from?

A notebook's inputs are its own code cells, the project's modules that it loads (directly or through each
other), the recorded results whose path it names, and the pinned versions. When a notebook is executed, a
digest of each is stored in its metadata; it is stale when one of them has another digest now.
"""

import ast
import functools
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import grimp
import nbformat
from IPython.core.inputtransformer2 import TransformerManager

from .notebooks import ROOT

PINS = "requirements.txt"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def _imports() -> Any:
    return grimp.build_graph("selfattn", "experiments", cache_dir=None)


def _loaded_modules(code: str) -> set[str]:
    """Every module of the project that running `code` loads."""
    graph, named = _imports(), set()
    for node in ast.walk(ast.parse(TransformerManager().transform_cell(code))):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            named |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    loaded = named & graph.modules
    for module in named & graph.modules:
        loaded |= graph.find_upstream_modules(module)
    for module in list(loaded):  # importing a.b runs a's __init__ first, and what that imports
        package = module.partition(".")[0]
        loaded |= {package} | graph.find_upstream_modules(package)
    return loaded


def _module_file(module: str) -> str:
    path = Path(*module.split("."))
    return f"{path}/__init__.py" if (ROOT / path).is_dir() else f"{path}.py"


def inputs(path: Path) -> dict[str, str]:
    """What the outputs of this notebook depend on, each with a digest of what it is now."""
    code = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    files = {PINS} | {_module_file(module) for source in code for module in _loaded_modules(source)}
    for named in re.findall(r"experiments/results[\w/.-]*", "\n".join(code)):
        place = ROOT / named
        files |= {str(file.relative_to(ROOT)) for file in (place.rglob("*") if place.is_dir() else [place])}
    present = {file: ROOT / file for file in sorted(files) if (ROOT / file).is_file()}
    return {"cells": _digest("\0".join(code))} | {
        file: _digest(place.read_text(encoding="utf-8")) for file, place in present.items()
    }


def fingerprint(found: dict[str, str]) -> str:
    """One digest of all inputs: the code, the pins and the results that a run was made from."""
    return _digest(json.dumps(found, sort_keys=True))


def stale(path: Path) -> list[str]:
    """What has changed since the notebook's outputs were stored; empty when they are fresh."""
    stored = nbformat.read(path, 4).metadata.get("selfattn", {}).get("inputs", {})
    current = inputs(path)
    return sorted(name for name in stored.keys() | current.keys() if stored.get(name) != current.get(name))
