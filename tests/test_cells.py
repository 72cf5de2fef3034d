"""Cells of a grid: the table that they give, what is kept of them, and what makes a kept one useless."""

import errno
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch

from experiments.engine import cells, computing, journal, sources, store
from experiments.engine.journal import Journal
from experiments.scaling_training import measure as question

MODULE, FUNCTION = "experiments.scaling_training.measure", "experiments.scaling_training.measure.train"
Rows = list[dict[str, object]]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in (cells.FRESH, computing.SCHEDULER, journal.PLACE):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(store.PLACE, str(tmp_path / "cells"))
    return tmp_path / "cells"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The x of every call of `question.train`, for which a small function stands in."""
    called = []

    def measure(x: int, seeds: list[int], raises: bool = False) -> Rows:
        called.append(x)
        if raises and x == 2:
            raise ArithmeticError("no result at two")
        return [{"seed": seed, "value": x + seed / 3} for seed in seeds]

    measure.__module__, measure.__qualname__ = question.train.__module__, question.train.__qualname__
    monkeypatch.setattr(question, "train", measure)
    return called


def measured(points: list[int], **fixed: object) -> pd.DataFrame:
    return cells.measure(question.train, cells.grid(x=points, seeds=[[1, 2]], **fixed))


def test_a_grid_is_the_product_in_order() -> None:
    points = cells.grid(a=[1, 2], b=("u", "v"), c=range(1), d="word", e=[[3, 4]])
    assert [(point["a"], point["b"]) for point in points] == [(1, "u"), (1, "v"), (2, "u"), (2, "v")]
    assert all((point["c"], point["d"], point["e"]) == (0, "word", [3, 4]) for point in points)


def test_an_empty_grid_says_so() -> None:
    with pytest.raises(ValueError, match="an empty grid: b has no values"):
        cells.grid(a=[1], b=[])
    with pytest.raises(ValueError, match=f"an empty grid: .* {FUNCTION}"):
        cells.measure(question.train, [])


@pytest.mark.usefixtures("calls")
def test_rows_stand_beside_their_parameters_in_the_cells_order() -> None:
    measured([3])
    table = measured([1, 3, 2])  # 3 is there before 1 and 2 are computed
    assert table.columns.tolist() == ["x", "seed", "value"], "lists, here the seeds, are no columns"
    assert table["x"].tolist() == [1, 1, 3, 3, 2, 2]
    assert table["value"].tolist() == [x + seed / 3 for x in (1, 3, 2) for seed in (1, 2)]


def test_only_what_is_new_is_computed(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    first = measured([1, 2, 2])
    assert calls == [1, 2], "a cell that is asked for twice is computed once"
    assert first["x"].tolist() == [1, 1, 2, 2, 2, 2]
    pd.testing.assert_frame_equal(measured([1, 2, 2]), first)
    assert calls == [1, 2]
    measured([0, 1, 2, 3])
    assert calls == [1, 2, 0, 3]
    monkeypatch.setenv(cells.FRESH, "1")
    measured([1, 2])
    assert calls == [1, 2, 0, 3, 1, 2]


def test_numbers_of_another_type_are_another_cell(calls: list[int]) -> None:
    for x in (1, 1.0, True):
        measured([x])
    assert len(calls) == 3


def spoil_by_truncation(path: Path, other: str) -> None:
    path.write_text(path.read_text()[:-20])


def spoil_by_emptiness(path: Path, other: str) -> None:
    path.write_text("")


def spoil_by_other_json(path: Path, other: str) -> None:
    path.write_text("[1, 2]")


def spoil_by_bytes(path: Path, other: str) -> None:
    path.write_bytes(b"\xff\x00\xfe")


def spoil_by_missing_rows(path: Path, other: str) -> None:
    content = json.loads(path.read_text())
    del content["rows"]
    path.write_text(json.dumps(content))


def spoil_by_another_cell(path: Path, other: str) -> None:
    path.write_text(other)


@pytest.mark.parametrize("told", ["by hand", "to the command"])
@pytest.mark.parametrize("spoil", [value for name, value in globals().items() if name.startswith("spoil_by")])
def test_a_spoilt_file_is_said_and_computed_again(
    calls: list[int],
    folder: Path,
    spoil: Callable[[Path, str], None],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured([2])
    (two,) = folder.iterdir()
    whole = measured([1, 2])
    (one,) = set(folder.iterdir()) - {two}
    spoil(one, two.read_text())
    calls.clear()
    if told == "by hand":
        with pytest.warns(UserWarning, match=f"{one}.*computed again"):
            again = measured([1, 2])
    else:
        monkeypatch.setenv(journal.PLACE, str(folder.parent / "journal"))
        again = measured([1, 2])
        read = Journal(folder.parent / "journal")
        assert read.summary()["cells"]["kept"] == 1
        assert len(read.remarks) == 1
        assert str(one) in read.remarks[0]
    assert calls == [1]
    pd.testing.assert_frame_equal(again, whole)
    measured([1, 2])
    assert calls == [1], "the file is whole again"


def test_files_that_are_no_cells_are_left_alone(calls: list[int], folder: Path) -> None:
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    measured([1])
    assert (folder / "notes.txt").read_text() == "mine"


def test_what_was_finished_before_a_cell_raised_is_kept(calls: list[int]) -> None:
    said = r"train at {'x': 2, .*} raised ArithmeticError: no result at two"
    with pytest.raises(computing.CellFailed, match=said):
        measured([0, 1, 2, 3], raises=True)
    calls.clear()
    measured([0, 1, 3], raises=True)
    assert calls == [3]


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("value", [torch.tensor(1.0), {1, 2}, float("nan"), object()], ids=type)
def test_parameters_are_plain_data(value: object) -> None:
    with pytest.raises(TypeError, match="parameters of a cell are plain data"):
        measured([value])


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ([{"x": 2}], "repeat its parameters x"),
        ({"value": 2}, "returns no list of rows"),
        ([{"value": torch.ones(1)}], "not JSON serializable"),
    ],
)
def test_rows_are_plain_data_beside_the_parameters(
    returned: object, said: str, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:

    def measure(x: int) -> object:
        return returned

    measure.__module__, measure.__qualname__ = MODULE, "train"
    monkeypatch.setattr(question, "train", measure)
    with pytest.raises(computing.CellFailed, match=said):
        cells.measure(question.train, cells.grid(x=[1]))
    assert not folder.exists()


def test_a_function_of_no_module_of_the_project_is_refused() -> None:
    with pytest.raises(ValueError, match="is no module of the project"):
        cells.measure(lambda x: [], cells.grid(x=[1]))


@pytest.mark.parametrize("before", [1, 2])
def test_cells_have_one_thread(before: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(x: int) -> Rows:
        return [{"threads": torch.get_num_threads()}]

    measure.__module__, measure.__qualname__ = MODULE, "train"
    monkeypatch.setattr(question, "train", measure)
    torch.set_num_threads(before)
    try:
        assert cells.measure(question.train, cells.grid(x=[before]))["threads"].tolist() == [1]
        assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(1)


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the sources, in which a test may change files."""
    for name in ("experiments", "selfattn"):
        ignored = shutil.ignore_patterns("__pycache__", "results", "*.ipynb")
        shutil.copytree(sources.ROOT / name, tmp_path / name, ignore=ignored)
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "counts"),
    [
        ("experiments/scaling_training/measure.py", True),
        ("experiments/tasks/lookup.py", True),
        ("experiments/training/seeds.py", True),
        ("selfattn/__init__.py", True),
        ("selfattn/softmax.py", True),
        ("experiments/engine/claims.py", False),
        ("experiments/heads/measure.py", False),
        ("selfattn/pretrained/minilm.py", False),
        ("experiments/engine/cells.py", False),
    ],
)
def test_a_cell_is_another_one_after_its_code_changed(copied: Path, changed: str, counts: bool) -> None:
    def path() -> Path:
        return store.Cell(FUNCTION, {"x": 1}, sources.made_from(MODULE)).path

    before = path()
    (copied / changed).write_text((copied / changed).read_text() + "\n")
    assert (path() != before) is counts


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Say that another version of some packages is there."""
    version = sources.metadata.version

    def install(*packages: str) -> None:
        other = lambda name: "99.1+cuda" if name in packages else version(name)  # noqa: E731
        monkeypatch.setattr(sources.metadata, "version", other)
        sources._running.cache_clear()

    yield install
    sources._running.cache_clear()


def test_another_version_is_another_cell(installed: Callable[..., None]) -> None:
    before = sources.made_from(MODULE)
    assert {"python", "torch", "array-api-compat"} <= before.keys()
    installed("torch")
    after = sources.made_from(MODULE)
    assert {name for name in before if before[name] != after[name]} == {"torch"}
    assert after["torch"] == "99.1", "how it was built is no other version"


def test_another_version_of_what_is_not_imported_changes_nothing(installed: Callable[..., None]) -> None:
    before = sources.made_from(MODULE)
    installed("pandas", "papermill", "matplotlib", "distributed")
    assert sources.made_from(MODULE) == before


def test_a_package_that_is_gone_is_said(installed: Callable[..., None]) -> None:
    with pytest.raises(sources.DifferentCode, match=r"another no-such-package \(missing, not 1.0\)"):
        sources.check({"no-such-package": "1.0"})


def test_a_worker_with_other_code_is_refused() -> None:
    right = sources.made_from(MODULE)
    sources.check(right)
    for name in ("experiments/scaling_training/measure.py", "torch", "python"):
        with pytest.raises(sources.DifferentCode, match=f"another {name} "):
            sources.check(right | {name: "other"})
    with pytest.raises(sources.DifferentCode, match=r"experiments/gone.py \(missing, not 0\)"):
        sources.check({"experiments/gone.py": "0"})


def test_code_that_changed_under_a_running_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel goes on with the module that it has loaded; its results must not pass for the new file's."""
    sources._running.cache_clear()
    monkeypatch.setattr(psutil.Process, "create_time", lambda _: 0.0)
    assert MODULE in sys.modules
    with pytest.raises(sources.DifferentCode, match=r"measure.py has changed since this process"):
        sources.check(sources.digests(["experiments/scaling_training/measure.py"]))


def test_a_disk_that_is_full_is_named_and_what_was_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write_whole(tmp_path / "file", "old")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path / 'file'}'"):
        store.write_whole(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_status_tells_fresh_cells_from_older_ones(copied: Path, folder: Path) -> None:
    old = store.Cell(FUNCTION, {"x": 1}, sources.made_from(MODULE))
    store.write(old, {"rows": [], "seconds": 0.0, "processor": "one"})
    (copied / "experiments/training/seeds.py").write_text("# other\n")
    new = store.Cell(FUNCTION, {"x": 1}, sources.made_from(MODULE))
    store.write(new, {"rows": [], "seconds": 0.0, "processor": "one"})
    (found,) = store.status(folder)
    assert found == {
        "function": FUNCTION,
        "fresh": 1,
        "older": 1,
        "changed": ["experiments/training/seeds.py"],
    }


def test_a_journal_is_read_in_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "journal"
    read = Journal(place)
    assert read.summary() == {}
    monkeypatch.setenv(journal.PLACE, str(place))
    journal.tell(cells=3, kept=1)
    place.write_text(place.read_text() + '{"computed": 1, "measured": [{"seconds": 2.0, ')
    read.catch_up()
    assert (read.cells, read.kept, read.computed) == (3, 1, 0)
    place.write_text(place.read_text() + '"processor": "one"}]}\n')
    journal.tell(measured=[{"seconds": 0.5, "processor": "two"}])
    read.catch_up()
    assert (read.cells, read.computed) == (3, 1)
    found = {"number": 3, "kept": 1, "seconds": 2.5, "processors": ["one", "two"]}
    assert read.summary() == {"cells": found}
