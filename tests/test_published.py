"""The record of a published run: what it keeps, what is served from it, and who notices when it is wrong."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from project import Project, wait_until

from experiments.engine import agreement, cells, computing, journal, published, sources, store
from experiments.scaling_training import measure as question

POINTS = 8


def line(
    x: int,
    seeds: list[int],
    seconds: float = 1.0,
    function: str = "experiments.scaling_training.measure.train",
) -> dict[str, object]:
    rows = [{"seed": seed, "value": x + seed / 3} for seed in seeds]
    return {
        "function": function,
        "parameters": {"x": x, "seeds": seeds},
        "rows": rows,
        "seconds": seconds,
        "processor": "one",
    }


def test_a_record_is_sorted_and_holds_each_cell_once_at_full_precision(tmp_path: Path) -> None:
    cells = [line(2, [1]), line(1, [1, 2]), line(2, [1])]
    text = published.text(cells)
    assert text == published.text(cells[::-1])
    assert text.count("\n") == 2
    (tmp_path / published.FILE).write_text(text)
    kept = list(published.read(tmp_path).values())
    assert kept == [line(1, [1, 2]), line(2, [1])]
    assert kept[0]["rows"][0]["value"] == 1 + 1 / 3


def test_where_nothing_was_recorded_there_are_no_cells(tmp_path: Path) -> None:
    assert published.read(tmp_path) == {}


@pytest.fixture(scope="module")
def refreshed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project whose experiment is published; tests leave it as it is."""
    made = Project(tmp_path_factory.mktemp("refreshed") / "project")
    made.run("refresh tiny --jobs 2")
    yield made
    made.end()


def test_a_published_run_keeps_its_cells_beside_its_tables(refreshed: Project) -> None:
    kept = [json.loads(line) for line in (refreshed.results / "cells.jsonl").read_text().splitlines()]
    assert [cell["parameters"]["x"] for cell in kept] == list(range(POINTS))
    assert {cell["function"] for cell in kept} == {"experiments.tiny.measure.compute"}
    rows = [{"x": cell["parameters"]["x"]} | row for cell in kept for row in cell["rows"]]
    recorded = pd.read_csv(refreshed.results / "tiny.csv")
    assert (pd.DataFrame(rows)[recorded.columns]["value"] - recorded["value"]).abs().max() < 1e-3
    assert rows[3]["value"] == (1 + 0.1) * 1, "not rounded as the table is"
    assert all(cell["seconds"] >= 0.05 for cell in kept)


def recorded(*lines: dict[str, object]) -> dict[str, dict[str, object]]:
    return published.by_key(lines)


MANY = [line(x, [1], seconds=x / 4) for x in range(20)]


def test_a_sample_is_the_same_until_code_or_record_change(monkeypatch: pytest.MonkeyPatch) -> None:
    first = published.chosen("sample", recorded(*MANY))
    assert first == published.chosen("sample", recorded(*MANY[::-1]))
    falsified = [line(x, [1], seconds=x / 4) for x in range(20)]
    falsified[7]["rows"][0]["value"] += 1
    assert published.chosen("sample", recorded(*falsified)) != first
    other = {"experiments/tasks/lookup.py": "0"}
    monkeypatch.setattr(sources, "made_from", lambda module: other | {"torch": "1"})
    second = published.chosen("sample", recorded(*MANY))
    assert second != first
    monkeypatch.setattr(sources, "made_from", lambda module: other | {"torch": "2"})
    assert published.chosen("sample", recorded(*MANY)) == second, "on another machine too"


def seconds(names: set[str], record: dict[str, dict[str, object]]) -> float:
    return sum(record[name]["seconds"] for name in names)


def test_a_sample_takes_four_seconds_or_one_cell_of_at_most_ten() -> None:
    for shift in range(10):
        record = recorded(*(line(x + shift, [1], seconds=x / 4) for x in range(20)))
        assert 2 < seconds(published.chosen("sample", record), record) <= 4
    fits = recorded(line(1, [1], 400.0), line(2, [1], 10.0), line(3, [1], 11.0))
    assert published.chosen("sample", fits) == {published.key(**part(line(2, [1])))}
    assert published.chosen("sample", recorded(line(1, [1], 11.0))) == set()


def part(line: dict[str, object]) -> dict[str, object]:
    return {"function": line["function"], "parameters": line["parameters"]}


def test_of_each_arm_the_cheapest_cell_is_taken_for_at_most_a_minute() -> None:
    record = recorded(line(1, [1], 5.0), line(1, [2], 4.0), line(2, [1], 30.0), line(3, [1], 25.0))
    taken = sorted(record[name]["seconds"] for name in published.chosen("arms", record))
    assert taken == [4.0, 25.0, 30.0]
    record = recorded(line(1, [1], 5.0), line(2, [1], 31.0), line(3, [1], 25.0))
    taken = sorted(record[name]["seconds"] for name in published.chosen("arms", record))
    assert taken == [5.0, 25.0], "the dearest one would be too much"
    record = recorded(line(1, [1], 100.0), line(2, [1], 90.0))
    taken = [record[name]["seconds"] for name in published.chosen("arms", record)]
    assert taken == [90.0], "one at least"


def test_all_and_none_say_so_themselves() -> None:
    record = recorded(*MANY)
    assert published.chosen("all", record) == set(record)
    assert published.chosen("none", record) == set()


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pd.DataFrame]:
    """Measure at some x, in a folder that holds a record of x = 1, 2, with a function that adds `off`."""
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / published.FILE).write_text(published.text([line(1, [1, 2]), line(2, [1, 2])]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(store.PLACE, str(tmp_path / "cells"))
    monkeypatch.setenv(cells.FRESH, "1")
    for variable in (computing.SCHEDULER, journal.PLACE):
        monkeypatch.delenv(variable, raising=False)

    def measured(points: list[int], again: str, off: float = 0.0) -> pd.DataFrame:
        def measure(x: int, seeds: list[int]) -> list[dict[str, object]]:
            calls.append(x)
            return [{"seed": seed, "value": x + seed / 3 + off} for seed in seeds]

        measure.__module__, measure.__qualname__ = question.train.__module__, question.train.__qualname__
        monkeypatch.setattr(question, "train", measure)
        monkeypatch.setenv(published.AGAIN, again)
        return cells.measure(question.train, cells.grid(x=points, seeds=[[1, 2]]))

    calls = measured.calls = []
    return measured


def test_rows_come_from_the_record_once_some_agree(served: Callable[..., pd.DataFrame]) -> None:
    table = served([1, 2], "all", off=1e-3)  # within the arm's range
    assert sorted(served.calls) == [1, 2]
    assert table["value"].tolist() == [x + seed / 3 for x in (1, 2) for seed in (1, 2)]
    served([1, 2], "none")
    assert sorted(served.calls) == [1, 2]


def test_a_cell_that_disagrees_is_named(served: Callable[..., pd.DataFrame]) -> None:
    said = r'scaling_training.measure.train {"seeds": \[1, 2\], "x": 2} disagrees with the record: value = '
    with pytest.raises(agreement.Disagreement, match=said):
        served([2], "all", off=1.0)


@pytest.mark.parametrize("again", ["sample", "arms", "all"])
def test_a_cell_that_is_lacking_is_named(served: Callable[..., pd.DataFrame], again: str) -> None:
    said = r'lacks .*measure.train {"seeds": \[1, 2\], "x": 3}; `python -m experiments refresh --full '
    with pytest.raises(agreement.Disagreement, match=said):
        served([1, 2, 3], again)
    assert served.calls == []


def test_where_the_code_is_the_same_a_lacking_cell_is_computed(served: Callable[..., pd.DataFrame]) -> None:
    assert len(served([1, 2, 3], "none")) == 6
    assert served.calls == [3]


def take_over(refreshed: Project, project: Project) -> None:
    """The experiment with what was published of it, but no finished cells besides: a fresh clone."""
    shutil.copytree(
        refreshed.root / "experiments/tiny", project.root / "experiments/tiny", dirs_exist_ok=True
    )


NBVAL = "--nbval-lax --nbval-current-env -p no:cacheprovider experiments/tiny/tiny.ipynb"


def falsify(project: Project) -> None:
    """The value that seed 2 has at x = 1 becomes another one."""
    project.change("results/cells.jsonl", f'"seed": 2, "value": {(1 + 0.1) * 2}', '"seed": 2, "value": 2.3')


def change_the_analysis(project: Project) -> None:
    project.change("tiny.ipynb", "['pause', 'fault'])", "['pause', 'fault']).assign(value=0)")


def change_the_code(project: Project) -> None:
    project.change("measure.py", "x + 0.1", "x + 0.2")


def lose_a_cell(project: Project) -> None:
    path = project.results / "cells.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize(
    ("spoil", "again", "said"),
    [
        (None, "sample", ""),
        (change_the_analysis, "sample", "mismatch"),
        (falsify, "none", "mismatch"),
        (falsify, "all", '"x": 1} disagrees with the record: value = 2.2, not 2.3, in the row of seed 2'),
        (change_the_code, "sample", "disagrees with the record: value = "),
        (lose_a_cell, "sample", "refresh --full tiny` makes it anew"),
    ],
)
def test_nbval_serves_a_notebook_from_its_record_and_notices(
    refreshed: Project,
    tmp_path: Path,
    spoil: Callable[[Project], None] | None,
    again: str,
    said: str,
) -> None:
    project = Project(tmp_path / "project")
    shutil.copytree(
        refreshed.root / "experiments/tiny", project.root / "experiments/tiny", dirs_exist_ok=True
    )
    if spoil:
        spoil(project)
    told = project.environment | {published.AGAIN: again, cells.FRESH: "1"}
    out, _ = project.run(NBVAL, code=1 if spoil else 0, module="pytest", env=told)
    assert said in out
    assert project.calls().keys() <= set(range(POINTS))
    project.end()


def test_times_are_not_carried_over(
    served: Callable[..., pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "kind", lambda function: "timed")
    assert len(served([1, 2], "all")) == 4
    with pytest.raises(agreement.Disagreement, match="other code takes other times"):
        served([1, 2], "arms")


@pytest.fixture
def halves(tmp_path: Path, refreshed: Project) -> Iterator[Project]:
    """A project whose published cells are two an arm: the seeds 1 and 2, and the seed 3."""
    made = Project(tmp_path / "project")
    made.change("tiny.ipynb", "seeds=[seeds]", "seeds=[seeds[:2], seeds[2:]]")
    made.run("refresh tiny --jobs 2")
    assert made.calls() == dict.fromkeys(range(POINTS), 2)
    shutil.rmtree(made.root / "runs")
    made.log.unlink()
    yield made
    made.end()


def run_of(project: Project) -> dict[str, object]:
    return json.loads((project.results / "run.json").read_text())


def published_cells(project: Project) -> str:
    return (project.results / "cells.jsonl").read_text()


def test_a_record_is_carried_over_a_change_of_code_when_its_cells_agree(halves: Project) -> None:
    cells_before, run_before = published_cells(halves), run_of(halves)
    assert "checked_by" not in run_before
    halves.change("measure.py", "import os\n", "import os  # for the log\n")
    _, err = halves.run("refresh tiny")
    assert err == ""
    assert halves.calls() == dict.fromkeys(range(POINTS), 1), "one an arm"
    assert published_cells(halves) == cells_before
    run = run_of(halves)
    assert run["computed_by"] == run_before["computed_by"]
    checked_by = run["checked_by"]
    different = {name for name, made in checked_by.items() if run["computed_by"][name] != made}
    assert different == {"experiments/tiny/measure.py"}
    assert run["cells"]["number"] == 2 * POINTS
    assert run["fingerprint"] != run_before["fingerprint"]
    out, _ = halves.run("refresh tiny")
    assert out == "every notebook is up to date\n"

    halves.change(
        "tiny.ipynb", "'fault'])", "'fault']).assign(more=1)"
    )  # the analysis: no cell needs a check
    halves.run("refresh tiny")
    assert halves.calls() == dict.fromkeys(range(POINTS), 1)
    assert "more" in pd.read_csv(halves.results / "tiny.csv")
    assert run_of(halves)["checked_by"] == checked_by

    out, _ = halves.run("show tiny")
    assert "computed_by: " in out
    halves.run("refresh tiny --full")
    assert halves.calls() == {x: 2 for x in range(POINTS)}, "those that were checked are kept"
    run = run_of(halves)
    assert run["computed_by"] == checked_by
    assert "checked_by" not in run


def test_a_record_that_disagrees_is_computed_anew_and_goes_on_where_it_stopped(halves: Project) -> None:
    halves.change("measure.py", "x + 0.1", "x + 0.2")
    halves.change("measure.py", "    time.sleep(pause)\n", "    time.sleep(pause + 0.5)\n")
    process = halves.start("refresh tiny --jobs 2")
    wait_until(lambda: len(list(halves.store.glob("*.json"))) >= POINTS + 2)
    os.kill(process.pid, signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    assert run_of(halves)["computed_by"].keys() >= {"experiments/tiny/measure.py"}
    before = halves.calls()
    finished = len(list(halves.store.glob("*.json")))
    _, err = halves.run("refresh tiny --jobs 2")
    assert "disagrees with the record: value = " in err
    assert "; all cells are computed anew" in err
    assert (halves.calls() - before).total() == 2 * POINTS - finished, "what was finished is kept"
    table = pd.read_csv(halves.results / "tiny.csv")
    assert (table["value"] - (table["x"] + 0.2) * table["seed"]).abs().max() < 1e-3
    kept = [json.loads(line) for line in published_cells(halves).splitlines()]
    assert all(row["value"] == (c["parameters"]["x"] + 0.2) * row["seed"] for c in kept for row in c["rows"])
    assert "checked_by" not in run_of(halves)
    assert run_of(halves)["cells"]["number"] == 2 * POINTS


def test_where_the_grid_has_grown_what_is_new_is_computed(refreshed: Project, tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    take_over(refreshed, project)
    project.change("tiny.ipynb", "points = 8", "points = 9")
    project.run("refresh tiny")
    assert project.calls() == {8: 1}
    assert published_cells(project).startswith(published_cells(refreshed))
    project.end()


def test_a_record_of_before_is_computed_anew(refreshed: Project, tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    take_over(refreshed, project)
    (project.results / "cells.jsonl").unlink()
    project.change("measure.py", "import os\n", "import os  # for the log\n")
    project.run("refresh tiny")
    assert project.calls() == dict.fromkeys(range(POINTS), 1)
    kept = published.read(project.results).values()
    assert [c["rows"] for c in kept] == [c["rows"] for c in published.read(refreshed.results).values()]
    project.end()
