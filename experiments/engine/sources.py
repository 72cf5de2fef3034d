"""Which of the project's modules a piece of code loads, and what is in them now.

Results are keyed by what they were made from: a digest of every such module's source, the pins, and the
versions that are really there.
"""

import ast
import functools
import hashlib
import platform
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import grimp
import psutil

ROOT = Path(__file__).resolve().parents[2]
PINS = "requirements.txt"
PACKAGES = ("numpy", "torch")  # those whose version may change a number


class DifferentCode(RuntimeError):
    """This process runs other code than the one that asked it to compute."""


def digest(text: str) -> str:
    """Sixteen hexadecimal digits that stand for the text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def _imports() -> Any:
    return grimp.build_graph("selfattn", "experiments", cache_dir=None)


def named(code: str) -> set[str]:
    """The project's modules that Python code imports by their absolute names."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found & _imports().modules


def closure(modules: Iterable[str]) -> set[str]:
    """These modules and every module of the project that loading them loads.

    >>> sorted(closure(["experiments.training.seeds"]))
    ['experiments', 'experiments.training', 'experiments.training.seeds']
    """
    graph, found, due = _imports(), set(), set(modules)
    while due:
        module = due.pop()
        found.add(module)
        due |= graph.find_modules_directly_imported_by(module)
        package = module.rpartition(".")[0]  # importing a.b runs a's __init__ first
        due = (due | ({package} if package else set())) - found
    return found


def file(module: str) -> str:
    """Where the module's source lies, from the project's root."""
    path = Path(*module.split("."))
    return f"{path}/__init__.py" if (ROOT / path).is_dir() else f"{path}.py"


def digests(files: Iterable[str]) -> dict[str, str]:
    """A digest of each file as it is now, by its path from the project's root."""
    return {name: digest((ROOT / name).read_text(encoding="utf-8")) for name in sorted(files)}


def made_from(module: str) -> dict[str, str]:
    """What the results of this module's functions depend on: sources and pins, each with its digest.

    Raises `ValueError` for a module that isn't the project's, whose changes nobody would notice.
    """
    if module not in _imports().modules:
        raise ValueError(
            f"{module} is no module of the project; measure functions live in experiments/QUESTION/measure.py"
        )
    installed = {package: _running(package) for package in ("python", *PACKAGES)}
    return digests({PINS} | {file(loaded) for loaded in closure([module])}) | installed


def check(expected: dict[str, str]) -> None:
    """Raise `DifferentCode` unless this process runs what was `expected`: the same sources and versions."""
    seen = {name: _running(name) for name in expected}
    different = [
        f"{name} ({seen[name]}, not {wanted})" for name, wanted in expected.items() if seen[name] != wanted
    ]
    if different:
        raise DifferentCode(
            f"the worker in {ROOT} runs another {', '.join(different)} than the notebook; "
            "give it the same and start it again"
        )


@functools.cache
def _running(name: str) -> str:
    """What this process runs: a package's version, or a source's digest as it was when first asked for."""
    if name == "python":
        return ".".join(platform.python_version_tuple()[:2])
    if name in PACKAGES:
        return metadata.version(name).partition("+")[0]  # 2.13.0+cpu is 2.13.0 built for CPUs
    path = ROOT / name
    if not path.exists():
        return "missing"
    loaded = any(getattr(module, "__file__", None) == str(path) for module in list(sys.modules.values()))
    started = psutil.Process().create_time() + 2  # the system knows it to about a second
    if loaded and path.stat().st_mtime > started:
        raise DifferentCode(f"{name} has changed since this process started; start the kernel again")
    return digests([name])[name]
