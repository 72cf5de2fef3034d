"""Notebooks with parameters: what they accept, how they run, what they recorded."""

import ast
import json
import os
import platform
import tempfile
import time
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import papermill
from jupyter_core.utils import ensure_event_loop
from traitlets.config import Config

from .claims import RECORD

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = {path.stem: path for path in sorted((ROOT / "experiments").glob("*.ipynb"))}
CHAPTERS = {path.stem: path for path in sorted((ROOT / "book").glob("*.ipynb"))}
RESULTS = ROOT / "experiments" / "results"


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
    """The typed text as a value of the default's type; an integer passes for a float."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    wanted, like = type(default), default[0] if isinstance(default, list) else default
    items = list(value) if wanted is list and isinstance(value, list | tuple) else [value]
    items = [float(item) if type(like) is float and type(item) is int else item for item in items]
    fits = items and all(type(item) is type(like) for item in items)
    if not fits or (wanted is list) != isinstance(value, list | tuple):
        kind = f"list of {type(like).__name__}" if wanted is list else wanted.__name__
        raise Refused(f"{what} is a {kind}, such as {default!r}; got {text!r}")
    return items if wanted is list else items[0]


def execute(
    path: Path, output: Path, changes: dict[str, Any], stamp: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Run a notebook from top to bottom in a fresh kernel and keep the executed copy at `output`.

    The copy replaces `output` in one step when the run ends, also when a cell raised: then it holds the
    traceback, and the exception goes on. `stamp` is kept in the copy's metadata. Returns the circumstances:
    parameters, versions, processor, threads, duration.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    aside = tempfile.TemporaryDirectory
    with (
        aside(dir=output.parent.resolve(), prefix=".run-") as folder,
        aside(prefix="kernel-") as sockets,
        closing(ensure_event_loop()),  # the one that papermill's client uses in this thread, and leaves open
    ):
        draft = Path(folder) / output.name
        try:
            papermill.execute_notebook(
                path,
                draft,
                changes,
                kernel_name="python3",
                language="python",
                progress_bar=False,
                coalesce_streams=True,
                resources={"metadata": {"path": str(path.parent)}},  # papermill's cwd= moves all threads
                config=Config(KernelManager=_transport(sockets)),
            )
        finally:
            if draft.exists():
                nbformat.write(_normalized(nbformat.read(draft, 4), stamp), draft)
                draft.replace(output)
    packages = ("numpy", "torch", "selfattn")
    return {
        "parameters": parameters(path) | changes,
        "python": platform.python_version(),
        "versions": {package: metadata.version(package) for package in packages},
        "processor": _processor(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
        "seconds": round(time.perf_counter() - start, 1),
    }


def _transport(sockets: str) -> dict[str, str]:
    """How to reach a kernel: by sockets in a private folder where the system has them, else by loopback.

    Ports on loopback can collide when several kernels start at once, and any user could connect.
    """
    return {"transport": "ipc", "ip": f"{sockets}/kernel"} if os.name == "posix" else {"transport": "tcp"}


def _processor() -> str:
    """The processor's name: the system's own word where there is one, else the architecture."""
    models = [
        line.partition(":")[2].strip()
        for line in (Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else [])
        if line.startswith("model name")
    ]
    return f"{models[0] if models else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def _normalized(notebook: Any, stamp: dict[str, Any] | None) -> Any:
    """Without what differs from run to run or machine to machine: timings, paths, interpreter versions."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        **({"selfattn": stamp} if stamp else {}),
    }
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
    return notebook


def record(path: Path) -> dict[str, Any] | None:
    """The record that an executed notebook carries in its outputs, if it has one."""
    outputs = (output for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", []))
    return next((output["data"][RECORD] for output in outputs if RECORD in output.get("data", {})), None)


def save_record(path: Path, folder: Path, circumstances: dict[str, Any]) -> list[dict[str, Any]]:
    """Write the record of an executed notebook as text files into `folder` and return its claims."""
    recorded = record(path) or {"claims": [], "tables": {}}
    folder.mkdir(parents=True, exist_ok=True)
    for name, csv in recorded["tables"].items():
        (folder / f"{name}.csv").write_text(csv, encoding="utf-8")
    for name, content in (("claims", recorded["claims"]), ("run", circumstances)):
        (folder / f"{name}.json").write_text(
            json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    return recorded["claims"]


def results(name: str) -> tuple[list[dict[str, Any]], dict[str, pd.DataFrame], dict[str, Any]]:
    """What the published run of an experiment recorded: its claims, its tables and its circumstances."""
    folder = RESULTS / name
    if not (folder / "claims.json").exists():
        raise Refused(f"{name} has no published results; `python -m experiments refresh {name}` makes them")
    tables = {path.stem: pd.read_csv(path) for path in sorted(folder.glob("*.csv"))}
    return (
        json.loads((folder / "claims.json").read_text()),
        tables,
        json.loads((folder / "run.json").read_text()),
    )
