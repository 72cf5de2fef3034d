"""Kernels that are this command's own, whatever the shell, the home or another environment says."""

import os
import weakref
from typing import Any, ClassVar

from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from traitlets import Dict, default

from .notebooks import Refused
from .sources import ROOT

LONGEST_SOCKET = 100  # bytes in the path of a Unix socket; Linux takes 107, macOS 103


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


def environment(aside: str) -> dict[str, str]:
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


def connection(aside: str) -> dict[str, str]:
    """How to reach a kernel: by sockets in a private folder where that is possible, else by loopback.

    Ports on loopback can collide when several kernels start at once, and any user can listen.
    """
    file = f"{aside}/kernel.json"
    if os.name == "posix" and file.isascii() and len(file) < LONGEST_SOCKET:
        return {"connection_file": file, "transport": "ipc"}
    return {"connection_file": file, "transport": "tcp", "transport_encryption": "required"}
