"""What surrounds the chapters agrees with them: ledger, map, questions and lectures."""

import re

import nbformat
import pandas as pd
import pytest
import yaml

from experiments.engine import notebooks, thresholds
from experiments.engine.notebooks import CHAPTERS, EXPERIMENTS, ROOT

NUMBERED = {name: path for name, path in CHAPTERS.items() if name[0].isdigit()}
PUBLISHED = {name: notebooks.results(name)[0] for name in EXPERIMENTS if notebooks.published(name).is_dir()}
CLAIMS = {claim["id"]: claim for claims in PUBLISHED.values() for claim in claims}


def prose(name: str) -> str:
    """The text of a chapter, or of another page."""
    if name not in CHAPTERS:
        return (ROOT / f"book/{name}.md").read_text(encoding="utf-8")
    cells = nbformat.read(CHAPTERS[name], 4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def printed(name: str) -> str:
    """The Markdown that a page's cells made."""
    outputs = [
        output for cell in nbformat.read(CHAPTERS[name], 4).cells for output in cell.get("outputs", [])
    ]
    return "\n".join(output.get("data", {}).get("text/markdown", "") for output in outputs)


def claims_named(name: str) -> set[str]:
    return set(re.findall(r"#claim-([\w-]+)", prose(name)))


def label(name: str) -> str:
    return re.search(r"^\((ch-[\w-]+)\)=", prose(name), re.M)[1]


ROWS = {
    found[1]: line
    for line in printed("ledger").splitlines()
    if (found := re.search(r"\{#claim-([\w-]+)\}", line))
}


@pytest.mark.parametrize("name", [*NUMBERED, "teaching", "questions"])
def test_claims_that_a_page_names_are_recorded(name: str) -> None:
    assert claims_named(name) - CLAIMS.keys() == set(), "the page names claims that no experiment recorded"


def test_the_ledger_has_one_row_a_claim_with_its_verdict_and_numbers() -> None:
    assert ROWS.keys() == CLAIMS.keys()
    for identity, row in ROWS.items():
        claim = CLAIMS[identity]
        assert f"**{claim['verdict'].capitalize()}**" in row
        assert claim["sentence"].replace("|", r"\|") in row
        assert f"| {thresholds.written(claim)} |" in row
        effect = 10 ** claim["effect"] if claim["scale"] == "log10" else claim["effect"]
        assert f"| {effect:.3g} [".replace("-", "−") in row


def test_rows_lead_back_to_exactly_the_chapters_that_use_them() -> None:
    for identity, row in ROWS.items():
        used = {label(name) for name in NUMBERED if identity in claims_named(name)}
        assert set(re.findall(r"\{ref\}`(ch-[\w-]+)`", row)) == used, identity
        assert bool(used) != row.endswith("| no chapter yet |"), identity


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_chapter_that_tells_of_an_experiment_leaves_no_claim_out(name: str) -> None:
    reference = re.compile(rf"exp-{name.replace('_', '-')}[>`]")
    telling = [chapter for chapter in NUMBERED if chapter[:2] != "00" and reference.search(prose(chapter))]
    named = set().union(*map(claims_named, telling))
    if telling:
        assert {claim["id"] for claim in PUBLISHED[name]} - named == set(), f"not named in {telling}"


def test_every_experiment_is_in_the_ledger_with_its_command() -> None:
    for name in PUBLISHED:
        assert f"`python -m experiments run {name}`" in printed("ledger")


def test_unit_tests_that_the_ledger_links_to_exist() -> None:
    linked = re.findall(r"blob/main/(tests/test_\w+\.py)", printed("ledger"))
    assert len(linked) >= 7
    assert [path for path in linked if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", NUMBERED)
def test_the_map_and_the_lectures_have_every_chapter(name: str) -> None:
    assert re.search(rf"^\| \{{ref\}}`{label(name)}` \| .* \| \d+ min \| .* \|$", printed("map"), re.M)
    assert f"{{ref}}`{label(name)}`\n: *Prepare*" in prose("teaching")


def test_the_map_leads_back_only() -> None:
    numbers = {label(name): number for number, name in enumerate(NUMBERED)}
    for row in re.findall(r"^\| \{ref\}`ch-.*", printed("map"), re.M):
        own, *before = (numbers[found] for found in re.findall(r"`?#?(ch-[\w-]+)", row))
        assert all(other < own for other in before), row


@pytest.mark.parametrize("name", NUMBERED)
def test_a_chapter_runs_in_twenty_seconds(name: str) -> None:
    seconds = pd.read_csv(ROOT / "benchmarks/chapters.csv", index_col="chapter")["seconds"]
    assert name in seconds, f"`python -m benchmarks.chapters {name}` measures it"
    assert seconds[name] < 20


def test_every_page_has_its_place() -> None:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    placed = {entry["file"] for part in toc["parts"] for entry in part["chapters"]} | {toc["root"]}
    pages = {f"book/{path.stem}" for path in (ROOT / "book").iterdir() if path.suffix in (".md", ".ipynb")}
    assert placed == pages | {f"experiments/{name}/{name}" for name in EXPERIMENTS}
    assert toc["parts"][0]["chapters"][0]["file"] == "book/00_how_to_read"


def test_teachers_cite_what_the_citation_file_says() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    year = cited["date-released"][:4]
    assert f"*{cited['title']}*. Version {cited['version']}, {year}." in prose("teaching")
    assert f"<{cited['repository-code']}>" in prose("teaching")
