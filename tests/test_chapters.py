"""The shape that every chapter keeps, measured."""

import re
import statistics
from pathlib import Path

import nbformat
import pytest

from experiments.engine.notebooks import CHAPTERS, EXPERIMENTS, title

NUMBERED = {name: path for name, path in CHAPTERS.items() if name[0].isdigit()}
LONGEST_CELL, MEDIAN_CELL, LONGEST_PROSE = 15, 5, 90

every_chapter = pytest.mark.parametrize("name", NUMBERED)


def cells(path: Path, kind: str = "code", tag: str | None = None) -> list[nbformat.NotebookNode]:
    return [
        cell
        for cell in nbformat.read(path, 4).cells
        if cell.cell_type == kind and (tag is None or tag in cell.metadata.get("tags", []))
    ]


def test_the_running_example_is_the_same_everywhere() -> None:
    versions = {cell.source for path in NUMBERED.values() for cell in cells(path, tag="six-tokens")}
    assert len(versions) == 1
    assert all(len(cells(path, tag="six-tokens")) == 1 for path in NUMBERED.values())


@every_chapter
def test_title_carries_the_number_and_asks_one_question(name: str) -> None:
    text = "\n".join(cell.source for cell in cells(NUMBERED[name], "markdown"))
    assert title(NUMBERED[name]).startswith(f"{int(name[:2])} · ")
    assert len(re.findall(r"\*\*The question\.\*\* [^?]*\?", text)) == 1
    assert "\n## Sources" in text


@every_chapter
def test_code_cells_are_small(name: str) -> None:
    lengths = [
        len(cell.source.splitlines())
        for cell in cells(NUMBERED[name])
        if "remove-cell" not in cell.metadata.get("tags", [])
    ]
    assert max(lengths) <= LONGEST_CELL
    assert statistics.median(lengths) <= MEDIAN_CELL


@every_chapter
def test_prose_between_code_cells_is_short(name: str) -> None:
    """Words of a markdown cell; a formula counts as one word; exercises, confusions and sources aside."""
    for cell in cells(NUMBERED[name], "markdown"):
        if re.match(r"```\{(exercise|solution)|## Sources|## Common confusions", cell.source):
            continue
        words = re.sub(
            r"\$\$.*?\$\$|\$.*?\$|^\|.*$|\(http[^)]*\)", " f ", cell.source, flags=re.S | re.M
        ).split()
        assert len(words) <= LONGEST_PROSE, f"{len(words)} words: {cell.source[:60]}…"


@pytest.mark.parametrize("name", CHAPTERS | EXPERIMENTS)
def test_pictures_have_a_caption_and_alternative_text(name: str) -> None:
    for cell in cells((CHAPTERS | EXPERIMENTS)[name]):
        if any("image/png" in output.get("data", {}) for output in cell.outputs):
            shown = cell.metadata.get("mystnb", {})
            assert len(shown.get("figure", {}).get("caption", "").split()) >= 8, cell.source
            assert len(shown.get("image", {}).get("alt", "").split()) >= 8, cell.source


@every_chapter
def test_the_librarys_source_is_shown_and_compared(name: str) -> None:
    checked = cells(NUMBERED[name], tag="nbval-check-output")
    assert any("figures.source(sa." in cell.source for cell in checked)
    assert any("assert np.allclose(" in cell.source and "sa." in cell.source for cell in checked)


@every_chapter
def test_exercises_have_executed_solutions_that_assert(name: str) -> None:
    whole = nbformat.read(NUMBERED[name], 4).cells
    text = "\n".join(cell.source for cell in whole if cell.cell_type == "markdown")
    asked = set(re.findall(r"```\{exercise\} (?:Predict|Change|Prove)[^\n]*\n:label: (\S+)", text))
    assert len(asked) >= 3
    for kind in ("Predict", "Change", "Prove"):
        assert f"```{{exercise}} {kind}" in text
    solved = {}
    for cell in whole:
        if start := re.match(r"```\{solution-start\} (\S+)", cell.source):
            current = solved[start[1]] = []
            assert ":class: dropdown" in cell.source
        elif solved and cell.cell_type == "code":
            current.append(cell.source)
        elif "{solution-end}" in cell.source:
            current = []
    assert set(solved) == asked
    assert all(any("assert " in source for source in sources) for sources in solved.values())
