"""Run a notebook from top to bottom in a kernel of its own."""

import os
import platform
import shutil
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
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_core.utils import ensure_event_loop
from nbclient.exceptions import DeadKernelError
from traitlets import Dict, default
from traitlets.config import Config

from . import machine, store
from .notebooks import Refused, parameters
from .sources import ROOT

PACKAGES = ("numpy", "torch", "selfattn")
LONGEST_SOCKET = 100  # bytes in the path of a Unix socket; Linux takes 107, macOS 103


class NoKernel(RuntimeError):
    """A kernel ended before it was ready."""


class Kernel(AsyncKernelManager):
    """A kernel with additions of its own to the environment, which `stop` can end from another thread.

    It runs this command's own Python: kernels that are installed somewhere under a name belong to others.
    """

    environment = Dict().tag(config=True)
    started: ClassVar[weakref.WeakSet] = weakref.WeakSet()

    @default("kernel_spec_manager")
    def _only_the_native_one(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])

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


def threads() -> int:
    """How many threads a kernel's libraries use: the first number of OMP_NUM_THREADS, as OpenMP reads it.

    Without one, a single thread: kernels that share cores fight for them. Raises `Refused` for what is no
    number of threads.
    """
    said = os.environ.get("OMP_NUM_THREADS", "")
    first = said.partition(",")[0].strip() if said.strip() else "1"
    if not first.isdecimal() or int(first) < 1:
        raise Refused(f"OMP_NUM_THREADS is a number of threads, such as 2; got {said!r}")
    return int(first)


def _environment(aside: str) -> dict[str, str]:
    """What a kernel is told. What the user's shell and home say of Python and Jupyter doesn't count there."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "PYTHONPATH": os.pathsep.join(paths),  # the project that this command belongs to
        "PYTHONUTF8": "1",
        "PYTHONSTARTUP": "",
        "PYTHONWARNINGS": "",
        "IPYTHONDIR": f"{aside}/ipython",  # no profile, no start-up files
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "OMP_NUM_THREADS": str(threads()),
    }


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
        environment = _environment(aside) | environment
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
                kernel_manager_class=Kernel,
                config=Config(Kernel={"environment": environment} | _connection(aside)),
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


def _connection(aside: str) -> dict[str, str]:
    """How to reach a kernel: by sockets in a private folder where that is possible, else by loopback.

    Ports on loopback can collide when several kernels start at once, and any user can listen.
    """
    file = f"{aside}/kernel.json"
    if os.name == "posix" and file.isascii() and len(file) < LONGEST_SOCKET:
        return {"connection_file": file, "transport": "ipc"}
    return {"connection_file": file, "transport": "tcp", "transport_encryption": "required"}


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
