"""Rerun experiments on the side, or refresh what is published."""

import hashlib
import json
from pathlib import Path
from typing import Any

from papermill.exceptions import PapermillExecutionError

from . import claims, execution, freshness, notebooks, published, store
from .journal import Journal, append
from .notebooks import CHAPTERS, EXPERIMENTS, Refused
from .printing import complain, say, say_json
from .workforce import RUNS, Workforce, failures, in_parallel, require_writable


def _report(failed: dict[str, str]) -> int:
    for line in failed.values():
        complain(line)
    return 1 if failed else 0


def run(names: list[str], profile: str, changes: dict[str, str], workforce: Workforce, as_json: bool) -> int:
    """Rerun experiments into `runs`, leaving the published ones alone."""
    wanted = {name: notebooks.settings(name, profile, changes) for name in names or EXPERIMENTS}

    def folder(name: str) -> Path:
        typed = json.dumps({key: wanted[name][key] for key in sorted(changes)})
        suffix = "-" + hashlib.sha256(typed.encode()).hexdigest()[:6] if changes else ""
        return RUNS / f"{name}-{profile}{suffix}"

    def copy(name: str) -> Path:
        return folder(name) / f"{name}.ipynb"

    def work(name: str, environment: dict[str, str], told: Path) -> dict[str, Any]:
        inputs = freshness.inputs(EXPERIMENTS[name])
        found = execution.execute(EXPERIMENTS[name], copy(name), wanted[name], environment)
        return _recorded(copy(name), folder(name), profile, inputs, found, told)

    require_writable(map(folder, wanted))
    finished = in_parallel(work, {name: EXPERIMENTS[name] for name in wanted}, workforce)
    failed = failures(finished, copy)
    ends = {name: {"error": failed[name]} if name in failed else finished[name] for name in wanted}
    if as_json:
        listed = [{"name": name, "folder": str(folder(name))} | end for name, end in ends.items()]
        say_json(listed)
    for name, end in ends.items():
        if "claims" in end and not as_json:
            say(f"{name}: {folder(name)}\n{claims.table(end['claims']).to_string(index=False)}\n")
    return _report(failed)


def _recorded(
    copy: Path, folder: Path, profile: str, inputs: dict[str, str], found: dict[str, Any], told: Path
) -> dict[str, Any]:
    """Save an executed notebook's record; returns its claims and the circumstances of its run."""
    code = {"profile": profile, "fingerprint": freshness.fingerprint(inputs)}
    journal = Journal(told)
    circumstances = code | journal.summary() | {"computed_by": _made_from(journal.measured)} | found
    try:
        if journal.measured:
            store.write_whole(folder / published.FILE, published.text(journal.measured))
        return {"claims": notebooks.save_record(copy, folder, circumstances), "run": circumstances}
    except Exception as error:
        error.add_note(f"the executed notebook is {copy}")
        raise


def _made_from(measured: list[dict[str, Any]]) -> dict[str, str]:
    """By which sources and packages cells were computed, those of the record aside."""
    found = (line.get("made_from", {}).items() for line in measured)
    return dict(sorted({pair for pairs in found for pair in pairs}))


def _on_the_record(
    name: str, copy: Path, environment: dict[str, str], stamp: dict[str, Any], told: Path
) -> dict[str, Any]:
    """Execute an experiment's notebook on its published cells, or anew where these don't agree with the code.

    Returns the circumstances, and by which code a record that stays was computed and checked.
    """
    served, by = published.standing(notebooks.published(name))
    try:
        given = {published.AGAIN: served} if served else {}
        return execution.execute(EXPERIMENTS[name], copy, {}, environment | given, stamp) | by
    except PapermillExecutionError as error:
        if error.ename != "Disagreement":
            raise
        append(told, {"anew": True, "remark": f"{error.evalue}; all cells are computed anew"})
        return execution.execute(EXPERIMENTS[name], copy, {}, environment, stamp)


def refresh(names: list[str], workforce: Workforce, full: bool) -> int:
    """Execute the notebooks whose stored outputs are stale: experiments first, since chapters read them.

    A record whose cells agree with the code is carried over. `full`: fresh notebooks too, and every cell.
    """
    unknown = [name for name in names if name not in EXPERIMENTS | CHAPTERS]
    if unknown:
        raise Refused(f"unknown notebook {', '.join(unknown)}; there are {', '.join(EXPERIMENTS | CHAPTERS)}")
    failed, executed = {}, 0

    def kept(name: str) -> Path:
        return RUNS / "refresh" / f"{name}.ipynb"

    for shelf in (EXPERIMENTS, CHAPTERS):
        due = {
            name: path
            for name, path in shelf.items()
            if (not names or name in names) and (full or freshness.stale(path))
        }

        def work(name: str, environment: dict[str, str], told: Path, due: dict[str, Path] = due) -> None:
            inputs = freshness.inputs(due[name])
            stamp = {"inputs": inputs}
            if name in EXPERIMENTS and not full and not workforce.fresh:
                found = _on_the_record(name, kept(name), environment, stamp, told)
            else:
                found = execution.execute(due[name], kept(name), {}, environment, stamp)
            if name in EXPERIMENTS:
                _recorded(kept(name), notebooks.published(name), "default", inputs, found, told)
            store.write_whole(due[name], kept(name).read_text(encoding="utf-8"))
            kept(name).unlink()

        if due:
            written = [kept(name).parent for name in due] + [path.parent for path in due.values()]
            require_writable(written + [notebooks.published(name) for name in due if name in EXPERIMENTS])
            executed += len(due)
            failed |= failures(in_parallel(work, due, workforce), kept)
    if not executed:
        say("every notebook is up to date")
    return _report(failed)
