"""Who computes the cells: an embedded cluster on this machine's cores, or one that the user has started."""

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from distributed import Client, LocalCluster

from .notebooks import Refused

PATIENCE = 10  # seconds in which a scheduler must answer


def obstacle() -> OSError | None:
    """What keeps processes of this machine from reaching each other on loopback, as in a sealed container."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=PATIENCE).close()
    except OSError as error:
        return error
    return None


@contextmanager
def embedded(workers: int, threads: int) -> Iterator[str]:
    """The address of a cluster with this many processes, a cell at a time each, until the block ends.

    `threads` is for the libraries that a cell calls. Only this machine can reach the cluster. A worker that
    dies is replaced, and its cell is computed again.
    """
    loopback = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}  # Dask would listen on port 8787
    with LocalCluster(
        n_workers=0,
        threads_per_worker=1,
        host="127.0.0.1",
        memory_limit=None,
        dashboard_address=None,
        scheduler_kwargs=loopback,
        silence_logs=logging.WARNING,
        env={"OMP_NUM_THREADS": threads, "PYTHONUTF8": 1},
    ) as cluster:
        cluster.scale(workers)  # they come up while the first kernels do
        yield cluster.scheduler_address


@contextmanager
def joined(address: str) -> Iterator[str]:
    """The user's own scheduler, once it has answered. Raises `Refused` when it doesn't, or has no workers."""
    try:
        with Client(address, timeout=PATIENCE, set_as_default=False) as client:
            workers = client.nthreads()
    except (OSError, ValueError, TypeError) as error:
        raise Refused(f"no scheduler answers at {address}: {error}") from error
    if not workers:
        raise Refused(
            f"the scheduler at {address} has no workers; start one: dask worker {address} --nthreads 1"
        )
    yield address
