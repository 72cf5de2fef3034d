"""The command line: python -m experiments list | run | status | show | refresh."""

import argparse
import json
import os
import sys
from typing import Any

from . import claims, freshness, notebooks, runs, store
from .notebooks import CHAPTERS, EXPERIMENTS, Refused
from .workforce import RUNS, Workforce


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=1, ensure_ascii=False))


def status(as_json: bool) -> int:
    """Which notebooks and finished cells are fresh, and why the others aren't; 1 when a notebook is stale."""
    changed = {name: freshness.stale(path) for name, path in (EXPERIMENTS | CHAPTERS).items()}
    finished = store.status(RUNS / "cells")
    if as_json:
        _print_json(
            {
                "notebooks": [{"name": name, "stale": reasons} for name, reasons in changed.items()],
                "cells": finished,
            }
        )
        return 1 if any(changed.values()) else 0
    for name, reasons in changed.items():
        print(f"{name:24} {'stale: changed since its run: ' + ', '.join(reasons) if reasons else 'fresh'}")
    for entry in finished:
        older = f", {entry['older']} older (changed: {', '.join(entry['changed'])})" if entry["older"] else ""
        print(f"cells of {entry['function']}: {entry['fresh']} fresh{older}")
    return 1 if any(changed.values()) else 0


def show(name: str, as_json: bool) -> int:
    """What the published run of an experiment recorded."""
    if name not in EXPERIMENTS:
        raise Refused(f"unknown experiment {name!r}; there are {', '.join(EXPERIMENTS)}")
    rows, tables, circumstances = notebooks.results(name)
    question = notebooks.title(EXPERIMENTS[name])
    if as_json:
        plain = {label: json.loads(table.to_json(orient="records")) for label, table in tables.items()}
        _print_json(
            {"name": name, "question": question, "claims": rows, "tables": plain, "run": circumstances}
        )
        return 0
    print(f"{question}\n")
    print(claims.table(rows).to_string(index=False), "\n")
    for label, table in tables.items():
        print(f"{label}: {len(table)} rows of {', '.join(table.columns)}")
    made = {
        key: f"{len(code)} sources and packages" for key, code in circumstances.items() if key[-3:] == "_by"
    }
    print("\n".join(f"{key}: {value}" for key, value in (circumstances | made).items()))
    return 0


def listed(as_json: bool) -> int:
    """The experiments and their questions."""
    if as_json:
        _print_json(
            [
                {
                    "name": name,
                    "question": notebooks.title(path),
                    "parameters": notebooks.parameters(path),
                    "profiles": notebooks.profiles(path),
                }
                for name, path in EXPERIMENTS.items()
            ]
        )
        return 0
    for name, path in EXPERIMENTS.items():
        print(f"{name:24} {notebooks.title(path)}")
    return 0


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run_ = commands.add_parser("run", help="rerun experiments into the folder runs")
    refresh_ = commands.add_parser("refresh", help="rerun stale notebooks and publish their results")
    show_ = commands.add_parser("show", help="the published results of one experiment")
    status_ = commands.add_parser("status", help="which stored outputs are older than their inputs, and why")
    list_ = commands.add_parser("list", help="the experiments and their questions")
    show_.add_argument("name", metavar="NAME")
    run_.add_argument("--profile", default="default", help="smoke, default or full")
    run_.add_argument("-p", nargs=2, action="append", default=[], metavar=("PARAMETER", "VALUE"))
    for sub in (run_, refresh_):
        sub.add_argument("names", nargs="*", metavar="NAME", help="default: all")
        sub.add_argument(
            "--jobs", type=_count, default=os.cpu_count() or 1, help="notebooks, and workers, at a time"
        )
        sub.add_argument("--scheduler", metavar="ADDRESS", help="compute cells on this Dask cluster")
        sub.add_argument("--fresh", action="store_true", help="compute cells again that are kept from before")
    refresh_.add_argument(
        "--full", action="store_true", help="fresh notebooks too, and no record is carried over"
    )
    for sub in (run_, show_, status_, list_):
        sub.add_argument("--json", action="store_true", help="for programs")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and carry it out; the exit code is 2 when it can't be."""
    said = _parser().parse_args(arguments)
    try:
        if said.command in ("run", "refresh"):
            workforce = Workforce(said.jobs, said.scheduler, said.fresh)
            if said.command == "refresh":
                return runs.refresh(said.names, workforce, said.full)
            return runs.run(said.names, said.profile, dict(said.p), workforce, said.json)
        if said.command == "show":
            return show(said.name, said.json)
        return {"status": status, "list": listed}[said.command](said.json)
    except Refused as refusal:
        print(f"python -m experiments: {refusal}", file=sys.stderr)
        return 2
