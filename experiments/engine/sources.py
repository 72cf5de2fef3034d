"""Which of the project's modules a piece of code loads, what is in them now, and which packages they import.

Results are keyed by what they were made from: a digest of every such module's source, and the versions of the
packages that these import, as they are installed. Weights and data count by the digests that stand in the
modules that read them.
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
OURS = ("selfattn", "experiments")


class DifferentCode(RuntimeError):
    """This process runs other code than the one that asked it to compute."""


def digest(text: str) -> str:
    """Sixteen hexadecimal digits that stand for the text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def _imports() -> Any:
    return grimp.build_graph(*OURS, include_external_packages=True, cache_dir=None)


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in OURS and module in _imports().modules


def named(code: str) -> set[str]:
    """What Python code imports by absolute names: modules, the project's and others, and what is in them.

    >>> sorted(named("import torch.nn; from experiments.engine import cells"))
    ['experiments.engine', 'experiments.engine.cells', 'torch.nn']
    """
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def closure(modules: Iterable[str]) -> set[str]:
    """The project's modules among these, and every module of the project that loading them loads.

    >>> sorted(closure(["experiments.training.seeds"]))
    ['experiments', 'experiments.training', 'experiments.training.seeds']
    """
    graph, found, due = _imports(), set(), set(modules)
    while due := set(filter(_is_ours, due)) - found:
        module = due.pop()
        found.add(module)
        due |= graph.find_modules_directly_imported_by(module)
        due.add(module.rpartition(".")[0])  # importing a.b runs a's __init__ first
    return found


@functools.cache
def _providers() -> dict[str, list[str]]:
    return metadata.packages_distributions()


def versions(names: Iterable[str]) -> dict[str, str]:
    """The versions of the packages that these names, and those which these modules import, come from.

    The standard library's names come from none.

    >>> list(versions(["math", "selfattn.softmax", "pandas"]))
    ['array-api-compat', 'jaxtyping', 'pandas']
    """
    graph = _imports()
    imported = {name for name in names if not _is_ours(name)}
    for module in filter(_is_ours, names):
        imported |= graph.find_modules_directly_imported_by(module)
    roots = {name.partition(".")[0] for name in imported} - set(OURS)
    packages = {package for root in roots for package in _providers().get(root, [])}
    return {package: _running(package) for package in sorted(packages)}


def file(module: str) -> str:
    """Where the module's source lies, from the project's root."""
    path = Path(*module.split("."))
    return f"{path}/__init__.py" if (ROOT / path).is_dir() else f"{path}.py"


def digests(files: Iterable[str]) -> dict[str, str]:
    """A digest of each file as it is now, by its path from the project's root."""
    return {name: digest((ROOT / name).read_text(encoding="utf-8")) for name in sorted(files)}


def made_from(module: str) -> dict[str, str]:
    """What the results of this module's functions depend on: sources by digest, packages by version.

    Raises `ValueError` for a module that isn't the project's, whose changes nobody would notice.
    """
    if not _is_ours(module):
        raise ValueError(
            f"{module} is no module of the project; measure functions live in experiments/QUESTION/measure.py"
        )
    loaded = closure([module])
    return digests(map(file, loaded)) | {"python": _running("python")} | versions(loaded)


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
    if "/" not in name:
        return _installed(name)
    path = ROOT / name
    if not path.exists():
        return "missing"
    loaded = any(getattr(module, "__file__", None) == str(path) for module in list(sys.modules.values()))
    started = psutil.Process().create_time() + 2  # the system knows it to about a second
    if loaded and path.stat().st_mtime > started:
        raise DifferentCode(f"{name} has changed since this process started; start the kernel again")
    return digests([name])[name]


def _installed(package: str) -> str:
    try:
        return metadata.version(package).partition("+")[0]  # 2.13.0+cpu is 2.13.0 built for CPUs
    except metadata.PackageNotFoundError:
        return "missing"
