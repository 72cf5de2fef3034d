"""The command line: python -m experiments list | run | status | show | refresh."""

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from . import claims, freshness, notebooks
from .notebooks import CHAPTERS, EXPERIMENTS, RESULTS, Refused

RUNS = Path("runs")


def in_parallel(work: Callable[[str], Any], names: Iterable[str], jobs: int) -> dict[str, Any]:
    """`work` on every name, `jobs` at a time; a notebook that raised leaves its exception as its result."""
    names, finished = list(names), {}
    os.environ["MPLBACKEND"] = (
        "module://matplotlib_inline.backend_inline"  # pictures, whatever the shell says
    )
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // min(jobs, len(names) or 1))))
    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(names), disable=None, unit="notebook") as progress:
        futures = {pool.submit(work, name): name for name in names}
        for future in as_completed(futures):
            name = futures[future]
            progress.set_postfix_str(name)
            progress.update()
            finished[name] = future.exception() or future.result()
    return finished


def report_failures(finished: dict[str, Any], kept: Callable[[str], Path]) -> int:
    """Say which notebooks raised and where they lie; the number of them."""
    failed = {name: result for name, result in finished.items() if isinstance(result, BaseException)}
    for name, error in failed.items():
        if not isinstance(error, PapermillExecutionError):
            raise error
        print(
            f"{name} raised {error.ename}: {error.evalue}; its traceback is in {kept(name)}", file=sys.stderr
        )
    return len(failed)


def run(names: list[str], profile: str, changes: dict[str, str], jobs: int) -> int:
    """Rerun experiments into `runs`, leaving the published ones alone."""
    wanted = {name: notebooks.settings(name, profile, changes) for name in names or EXPERIMENTS}

    def folder(name: str) -> Path:
        typed = json.dumps({key: wanted[name][key] for key in sorted(changes)})
        suffix = "-" + hashlib.sha256(typed.encode()).hexdigest()[:6] if changes else ""
        return RUNS / f"{name}-{profile}{suffix}"

    def work(name: str) -> list[dict[str, Any]]:
        copy = folder(name) / f"{name}.ipynb"
        code = {"profile": profile, "fingerprint": freshness.fingerprint(freshness.inputs(EXPERIMENTS[name]))}
        circumstances = notebooks.execute(EXPERIMENTS[name], copy, wanted[name])
        return notebooks.save_record(copy, folder(name), code | circumstances)

    finished = in_parallel(work, wanted, jobs)
    failures = report_failures(finished, lambda name: folder(name) / f"{name}.ipynb")
    for name, rows in finished.items():
        if isinstance(rows, list):
            print(f"{name}: {folder(name)}\n{claims.table(rows).to_string(index=False)}\n")
    return 1 if failures else 0


def refresh(names: list[str], jobs: int) -> int:
    """Execute the notebooks whose stored outputs are stale: experiments first, since chapters read them."""
    unknown = [name for name in names if name not in EXPERIMENTS | CHAPTERS]
    if unknown:
        raise Refused(f"unknown notebook {', '.join(unknown)}; there are {', '.join(EXPERIMENTS | CHAPTERS)}")
    failures, executed = 0, 0

    def kept(name: str) -> Path:
        return RUNS / "refresh" / f"{name}.ipynb"

    for shelf in (EXPERIMENTS, CHAPTERS):
        due = [name for name in shelf if (not names or name in names) and freshness.stale(shelf[name])]

        def work(name: str, shelf: dict[str, Path] = shelf) -> None:
            path, inputs = shelf[name], freshness.inputs(shelf[name])
            copy = kept(name)
            circumstances = notebooks.execute(path, copy, {}, {"inputs": inputs})
            if shelf is EXPERIMENTS:
                code = {"profile": "default", "fingerprint": freshness.fingerprint(inputs)}
                notebooks.save_record(copy, RESULTS / name, code | circumstances)
            shutil.move(copy, path)

        if due:
            executed += len(due)
            failures += report_failures(in_parallel(work, due, jobs), kept)
    if not executed:
        print("every notebook is up to date")
    return 1 if failures else 0


def status() -> int:
    """Which notebooks are fresh, and why the others aren't; 1 when one is stale."""
    changed = {name: freshness.stale(path) for name, path in (EXPERIMENTS | CHAPTERS).items()}
    for name, reasons in changed.items():
        print(f"{name:24} {'stale: changed since its run: ' + ', '.join(reasons) if reasons else 'fresh'}")
    return 1 if any(changed.values()) else 0


def show(name: str) -> int:
    """What the published run of an experiment recorded."""
    if name not in EXPERIMENTS:
        raise Refused(f"unknown experiment {name!r}; there are {', '.join(EXPERIMENTS)}")
    rows, tables, circumstances = notebooks.results(name)
    print(f"{notebooks.title(EXPERIMENTS[name])}\n")
    print(claims.table(rows).to_string(index=False), "\n")
    for label, table in tables.items():
        print(f"{label}: {len(table)} rows of {', '.join(table.columns)}")
    print("\n".join(f"{key}: {value}" for key, value in circumstances.items()))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and carry it out; the exit code is 2 when it can't be."""
    parser = argparse.ArgumentParser(prog="python -m experiments", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the experiments and their questions")
    commands.add_parser("status", help="which stored outputs are older than their inputs")
    for command, text in (
        ("run", "rerun experiments into the folder runs"),
        ("refresh", "rerun stale notebooks"),
    ):
        sub = commands.add_parser(command, help=text)
        sub.add_argument("names", nargs="*", metavar="NAME", help="default: all")
        sub.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="notebooks at a time")
        if command == "run":
            sub.add_argument("--profile", default="default", help="smoke, default or full")
            sub.add_argument("-p", nargs=2, action="append", default=[], metavar=("PARAMETER", "VALUE"))
    commands.add_parser("show", help="the recorded results of one experiment").add_argument(
        "name", metavar="NAME"
    )
    said = parser.parse_args(arguments)
    try:
        if said.command == "run":
            return run(said.names, said.profile, dict(said.p), max(1, said.jobs))
        if said.command == "refresh":
            return refresh(said.names, max(1, said.jobs))
        if said.command == "show":
            return show(said.name)
        if said.command == "status":
            return status()
        for name, path in EXPERIMENTS.items():
            print(f"{name:24} {notebooks.title(path)}")
        return 0
    except Refused as refusal:
        print(f"python -m experiments: {refusal}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
