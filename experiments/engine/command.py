"""The command line: python -m experiments list | run | status | show | refresh."""

import argparse
import json
import os
import sys

from . import claims, freshness, notebooks, runs, store
from .notebooks import CHAPTERS, EXPERIMENTS, Refused
from .printing import complain, say, say_json
from .workforce import RUNS, Workforce


def status(as_json: bool) -> int:
    """Which notebooks and finished cells are fresh, and why the others aren't; 1 when a notebook is stale."""
    changed = {name: freshness.stale(path) for name, path in (EXPERIMENTS | CHAPTERS).items()}
    finished = store.status(RUNS / "cells")
    if as_json:
        say_json(
            {
                "notebooks": [{"name": name, "stale": reasons} for name, reasons in changed.items()],
                "cells": finished,
            }
        )
        return 1 if any(changed.values()) else 0
    for name, reasons in changed.items():
        say(f"{name:24} {'stale: changed since its run: ' + ', '.join(reasons) if reasons else 'fresh'}")
    for entry in finished:
        older = f", {entry['older']} older (changed: {', '.join(entry['changed'])})" if entry["older"] else ""
        say(f"cells of {entry['function']}: {entry['fresh']} fresh{older}")
    return 1 if any(changed.values()) else 0


def show(name: str, as_json: bool) -> int:
    """What the published run of an experiment recorded."""
    if name not in EXPERIMENTS:
        raise Refused(f"unknown experiment {name!r}; there are {', '.join(EXPERIMENTS)}")
    rows, tables, circumstances = notebooks.results(name)
    question = notebooks.title(EXPERIMENTS[name])
    if as_json:
        plain = {label: json.loads(table.to_json(orient="records")) for label, table in tables.items()}
        say_json({"name": name, "question": question, "claims": rows, "tables": plain, "run": circumstances})
        return 0
    say(f"{question}\n")
    say(f"{claims.table(rows).to_string(index=False)}\n")
    for label, table in tables.items():
        say(f"{label}: {len(table)} rows of {', '.join(table.columns)}")
    made = {
        key: f"{len(code)} sources and packages" for key, code in circumstances.items() if key[-3:] == "_by"
    }
    say("\n".join(f"{key}: {value}" for key, value in (circumstances | made).items()))
    return 0


def listed(as_json: bool) -> int:
    """The experiments and their questions."""
    if as_json:
        say_json(
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
        say(f"{name:24} {notebooks.title(path)}")
    return 0


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a number from 1 on; got {text!r}")
    return int(text)


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


def _parsed(words: list[str]) -> argparse.Namespace:
    """The command line; each `-p NAME VALUE` is taken out first, since argparse takes -1e-3 for a flag."""
    words, changes = list(words), []
    while words[:1] == ["run"] and "-p" in words[:-2]:
        at = words.index("-p")
        changes.append(words[at + 1 : at + 3])
        del words[at : at + 3]
    said = _parser().parse_args(words)
    if changes:
        said.p += changes
    return said


def _changes(pairs: list[list[str]]) -> dict[str, str]:
    names = [name for name, _ in pairs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise Refused(f"-p is given more than once for {', '.join(twice)}")
    return dict(pairs)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and do what it says.

    The exit code is 2 when that can't be begun, and 1 when something failed.
    """
    try:
        said = _parsed(sys.argv[1:] if arguments is None else arguments)
    except SystemExit:
        say("", end="")  # the reader of --help may have gone
        raise
    try:
        if said.command in ("run", "refresh"):
            workforce = Workforce(said.jobs, said.scheduler, said.fresh)
            if said.command == "refresh":
                return runs.refresh(said.names, workforce, said.full)
            return runs.run(said.names, said.profile, _changes(said.p), workforce, said.json)
        if said.command == "show":
            return show(said.name, said.json)
        return {"status": status, "list": listed}[said.command](said.json)
    except (Refused, OSError) as error:
        complain(f"python -m experiments: {error}")
        return 2 if isinstance(error, Refused) else 1
