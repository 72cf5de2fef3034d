"""The record of a published run: what it keeps, what is served from it, and who notices when it is wrong."""

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from project import Project

from experiments.engine import published

POINTS = 8


def line(x: int, seeds: list[int], seconds: float = 1.0, function: str = "experiments.heads.measure.train"):
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
    made = Project(tmp_path_factory.mktemp("refreshed") / "project", tmp_path_factory.mktemp("bytecode"))
    made.run("refresh tiny --jobs 2")
    yield made
    made.end()


def test_a_published_run_keeps_its_cells_beside_its_tables(refreshed: Project) -> None:
    results = refreshed.root / "experiments/tiny/results"
    cells = [json.loads(line) for line in (results / "cells.jsonl").read_text().splitlines()]
    assert [cell["parameters"]["x"] for cell in cells] == list(range(POINTS))
    assert {cell["function"] for cell in cells} == {"experiments.tiny.measure.compute"}
    rows = [{"x": cell["parameters"]["x"]} | row for cell in cells for row in cell["rows"]]
    recorded = pd.read_csv(results / "tiny.csv")
    assert (pd.DataFrame(rows)[recorded.columns]["value"] - recorded["value"]).abs().max() < 1e-3
    assert rows[3]["value"] == (1 + 0.1) * 1, "not rounded as the table is"
    assert all(cell["seconds"] >= 0.05 for cell in cells)
