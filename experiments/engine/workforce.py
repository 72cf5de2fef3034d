"""Several notebooks at a time, one cluster for the cells of all of them, and one line of progress."""

import contextlib
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from . import cluster, computing, execution, freshness, journal, kernels, store
from .cells import FRESH
from .journal import Journal
from .notebooks import Refused
from .printing import complain

RUNS = Path("runs")


@dataclass(frozen=True)
class Workforce:
    """How many notebooks at a time, whose scheduler computes the cells, and whether kept cells count."""

    jobs: int
    scheduler: str | None
    fresh: bool

    @contextlib.contextmanager
    def environment(self, notebooks: Iterable[Path]) -> Iterator[dict[str, str]]:
        """What kernels are told: the store, and a scheduler when one of these notebooks measures cells.

        Raises `Refused` when the store can't be written, or a setting of the shell makes no sense.
        """
        require_writable([RUNS / "cells"])
        threads = kernels.threads()
        told = {store.PLACE: str((RUNS / "cells").resolve())} | ({FRESH: "1"} if self.fresh else {})
        measured = any("experiments.engine.cells" in freshness.loaded(path) for path in notebooks)
        with contextlib.ExitStack() as stack:
            if self.scheduler:
                told[computing.SCHEDULER] = stack.enter_context(cluster.joined(self.scheduler))
            elif measured and (obstacle := cluster.obstacle()):
                complain(f"no cluster here ({obstacle}): every notebook computes its own cells")
            elif measured:
                told[computing.SCHEDULER] = stack.enter_context(cluster.embedded(self.jobs, threads))
            yield told


def require_writable(folders: Iterable[Path]) -> None:
    """Raise `Refused` for a folder, there already or not yet, into which nothing can be written."""
    for folder in folders:
        there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            raise Refused(f"nothing can be written into {folder}: {error.strerror}: {there}") from error


def in_parallel(
    work: Callable[[str, dict[str, str], Path], Any], notebooks: dict[str, Path], workforce: Workforce
) -> dict[str, Any]:
    """`work` on every notebook's name; one that raised leaves its exception as its result.

    `work` is given the name, additions to the kernel's environment, and where that kernel's journal lies.
    """
    with (
        tempfile.TemporaryDirectory(prefix="journals-") as folder,
        workforce.environment(notebooks.values()) as environment,
        ThreadPoolExecutor(workforce.jobs) as pool,
        tqdm(disable=None, total=0, unit="cell", dynamic_ncols=True) as bar,
    ):
        journals = {name: Journal(Path(folder) / name) for name in notebooks}
        futures = {
            pool.submit(work, name, environment | {journal.PLACE: str(told.path)}, told.path): name
            for name, told in journals.items()
        }
        pending = set(futures)
        try:
            while pending:
                _show(bar, journals, futures, pending)
                _, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            _show(bar, journals, futures, pending)
        except BaseException:  # Ctrl-C, say: no notebook begins, and those that run lose their kernels
            pool.shutdown(wait=False, cancel_futures=True)
            while wait(futures, timeout=0.1).not_done:
                kernels.stop()
            raise
    return {name: future.exception() or future.result() for future, name in futures.items()}


def _show(bar: Any, journals: dict[str, Journal], futures: dict[Future, str], pending: set[Future]) -> None:
    """What runs, how many cells are done and left, and, by tqdm's estimate, how long it will take."""
    for name, told in journals.items():
        told.catch_up()
        while told.remarks:
            bar.write(f"{name}: {told.remarks.pop(0)}", file=sys.stderr)
    running = [name for future, name in futures.items() if future.running()]
    kept = sum(told.kept for told in journals.values())
    done = f"{len(futures) - len(pending)} of {len(futures)} notebooks done"
    bar.set_description_str(f"{done}, {', '.join(running) or 'none'} running", refresh=False)
    bar.set_postfix_str(f"{kept} kept from before" if kept else "", refresh=False)
    bar.total = sum(told.cells - told.kept for told in journals.values())
    bar.update(sum(told.computed for told in journals.values()) - bar.n)
    bar.refresh()


def failures(finished: dict[str, Any], kept: Callable[[str], Path]) -> dict[str, str]:
    """Which notebooks failed and why, in a line each; before it a traceback when it is a defect of ours."""
    said = {}
    for name, error in finished.items():
        if isinstance(error, PapermillExecutionError):
            raised = " ".join(f"{error.ename}: {error.evalue}".split())
            where = f"its traceback is in {kept(name)}, and its finished cells are kept"
            said[name] = f"{name} raised {raised}; {where}"
        elif isinstance(error, DeadKernelError):
            said[name] = f"{name}: its kernel died; what it had finished is kept"
        elif isinstance(error, Exception):
            reason = error if isinstance(error, OSError | execution.NoKernel) else repr(error)
            said[name] = "; ".join([f"{name}: {reason}", *getattr(error, "__notes__", [])])
            if reason is not error:
                said[name] = "".join(traceback.format_exception(error)) + said[name]
        elif isinstance(error, BaseException):
            raise error
    return said
