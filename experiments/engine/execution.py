"""Run a notebook from top to bottom in a kernel of its own."""

import platform
import shutil
import tempfile
import time
from contextlib import closing, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_core.utils import ensure_event_loop
from nbclient.exceptions import DeadKernelError
from traitlets.config import Config

from . import kernels, machine, store
from .notebooks import parameters

PACKAGES = ("numpy", "torch", "selfattn")


class NoKernel(RuntimeError):
    """A kernel ended before it was ready."""


def execute(
    path: Path,
    output: Path,
    changes: dict[str, Any],
    environment: dict[str, str],
    stamp: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Run a notebook in a fresh kernel and keep the executed copy at `output`.

    The copy replaces `output` in one step when the run ends, also when a cell raised: then it holds the
    traceback, and the exception goes on. `stamp` is kept in the copy's metadata. Returns the circumstances:
    parameters, versions, processor, threads, duration.
    """
    start = time.perf_counter()
    with (
        tempfile.TemporaryDirectory(prefix="kernel-") as aside,
        closing(ensure_event_loop()),  # the one that papermill's client uses in this thread, and leaves open
    ):
        draft = Path(aside) / output.name
        environment = kernels.environment(aside) | environment
        try:
            papermill.execute_notebook(
                _verbatim(path),
                _verbatim(draft),
                changes,
                kernel_name="python3",
                language="python",
                progress_bar=False,
                coalesce_streams=True,
                resources={"metadata": {"path": str(path.parent)}},  # papermill's cwd= moves all threads
                kernel_manager_class=kernels.Kernel,
                config=Config(Kernel={"environment": environment} | kernels.connection(aside)),
            )
        except DeadKernelError:
            raise
        except RuntimeError as error:  # as jupyter_client says that it waited in vain
            raise NoKernel(f"no kernel could be started: {error}") from error
        except OSError as error:  # a full disk, say, which is raised without a name
            raise OSError(error.errno, error.strerror, error.filename or str(draft)) from error
        finally:
            with suppress(FileNotFoundError, nbformat.reader.NotJSONError):  # there was no room for a draft
                whole = nbformat.writes(_normalized(nbformat.read(draft, 4), stamp))
                _keep(whole + "\n", draft, output)
    return {
        "parameters": parameters(path) | changes,
        "python": platform.python_version(),
        "versions": {package: metadata.version(package) for package in PACKAGES},
        "processor": machine.processor(),
        "threads": int(environment["OMP_NUM_THREADS"]),
        "seconds": round(time.perf_counter() - start, 1),
    }


def _keep(whole: str, draft: Path, output: Path) -> None:
    """Write the executed notebook; where that fails, leave the draft of it behind and say where."""
    try:
        store.write_whole(output, whole)
    except OSError as error:
        error.add_note(f"the executed notebook is {shutil.move(draft, tempfile.mkdtemp(prefix='executed-'))}")
        raise


def _verbatim(path: Path) -> str:
    """The path for papermill, which would put parameters in the place of {words} in it."""
    return str(path).replace("{", "{{").replace("}", "}}")


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
