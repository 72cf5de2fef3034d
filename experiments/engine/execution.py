"""Run a notebook from top to bottom in a kernel of its own."""

import os
import platform
import tempfile
import time
import weakref
from contextlib import closing, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import nbformat
import papermill
from jupyter_client import AsyncKernelManager
from jupyter_core.utils import ensure_event_loop
from traitlets import Dict
from traitlets.config import Config

from . import machine, store
from .notebooks import parameters

PACKAGES = ("numpy", "torch", "selfattn")
ENVIRONMENT = {
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # pictures, whatever the shell says
    "OMP_NUM_THREADS": os.environ.get(
        "OMP_NUM_THREADS", "1"
    ),  # kernels that share cores don't fight for them
}


class Kernel(AsyncKernelManager):
    """A kernel with additions of its own to the environment, which `stop` can end from another thread."""

    environment = Dict().tag(config=True)
    started: ClassVar[weakref.WeakSet] = weakref.WeakSet()

    async def _async_start_kernel(self, **options: Any) -> None:
        self.started.add(self)
        await super()._async_start_kernel(env={**os.environ, **self.environment}, **options)

    start_kernel = _async_start_kernel

    async def _async_interrupt_kernel(self) -> None:
        if not self.shutting_down:  # an idle kernel that is about to end would complain of it on stderr
            await super()._async_interrupt_kernel()

    interrupt_kernel = _async_interrupt_kernel


def stop() -> None:
    """End every kernel that is running; the threads that execute their notebooks then raise and end too."""
    for kernel in list(Kernel.started):
        process = getattr(kernel.provisioner, "process", None)
        if process is not None:
            process.kill()


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
        settings = {"environment": ENVIRONMENT | environment} | _transport(aside)
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
                kernel_manager_class=Kernel,
                config=Config(Kernel=settings),
            )
        except OSError as error:  # a full disk, say, which is raised without a name
            raise OSError(error.errno, error.strerror, error.filename or str(draft)) from error
        finally:
            with suppress(FileNotFoundError, nbformat.reader.NotJSONError):  # there was no room for a draft
                whole = nbformat.writes(_normalized(nbformat.read(draft, 4), stamp))
                store.write_whole(output, whole + "\n")
    return {
        "parameters": parameters(path) | changes,
        "python": platform.python_version(),
        "versions": {package: metadata.version(package) for package in PACKAGES},
        "processor": machine.processor(),
        "threads": int(ENVIRONMENT["OMP_NUM_THREADS"]),
        "seconds": round(time.perf_counter() - start, 1),
    }


def _transport(sockets: str) -> dict[str, str]:
    """How to reach a kernel: by sockets in a private folder where the system has them, else by loopback.

    Ports on loopback can collide when several kernels start at once, and any user could connect.
    """
    return {"transport": "ipc", "ip": f"{sockets}/kernel"} if os.name == "posix" else {"transport": "tcp"}


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
