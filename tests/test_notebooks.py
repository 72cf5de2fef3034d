"""Every notebook is whole and fresh, and the freshness check notices what it must notice."""

import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest

from experiments.engine import freshness, notebooks, sources
from experiments.engine.notebooks import CHAPTERS, EXPERIMENTS, ROOT

ALL = CHAPTERS | EXPERIMENTS
every_notebook = pytest.mark.parametrize("name", ALL)


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def test_there_are_notebooks() -> None:
    assert CHAPTERS
    assert EXPERIMENTS


@every_notebook
def test_ran_from_top_to_bottom(name: str) -> None:
    cells = code_cells(ALL[name])
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))


@every_notebook
def test_outputs_hold_no_error_no_stderr_no_path(name: str) -> None:
    for cell in code_cells(ALL[name]):
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            assert output.get("name") != "stderr", output.text
            text = json.dumps(
                {kind: data for kind, data in output.get("data", {}).items() if kind != "image/png"}
            )
            assert not re.search(r"(?<![\w.:/])/(?:home|root|tmp|usr|work|Users)/|0x[0-9a-f]{6,}", text), (
                cell.source
            )


@every_notebook
def test_outputs_are_newer_than_their_inputs(name: str) -> None:
    assert freshness.stale(ALL[name]) == [], f"changed since {name} ran; `make refresh` reruns it"


@every_notebook
def test_is_normalized(name: str) -> None:
    """Nothing in the file depends on the machine or on when it ran."""
    notebook = nbformat.read(ALL[name], 4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info", "selfattn"}
    assert not any({"papermill", "execution"} & set(cell.metadata) for cell in notebook.cells)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_published_results_are_those_of_the_published_notebook(name: str) -> None:
    recorded, (claims, tables, run) = notebooks.record(EXPERIMENTS[name]), notebooks.results(name)
    assert claims == recorded["claims"]
    kept = notebooks.published(name).glob("*.csv")
    assert {path.stem: path.read_text() for path in kept} == recorded["tables"]
    assert set(tables) == set(recorded["tables"])
    assert run["fingerprint"] == freshness.fingerprint(freshness.inputs(EXPERIMENTS[name]))
    assert run["parameters"] == notebooks.parameters(EXPERIMENTS[name]), "published at other parameters"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_published_claims_keep_the_protocol(name: str) -> None:
    claims, *_ = notebooks.results(name)
    assert claims
    for claim in claims:
        assert claim["seeds"] >= 8, claim["id"]
        assert claim["verdict"] in ("reproduced", "not reproduced", "inconclusive"), claim["id"]
        assert claim["id"].startswith(name.replace("_", "-")), claim["id"]


def test_claim_ids_are_unique() -> None:
    ids = [claim["id"] for name in EXPERIMENTS for claim in notebooks.results(name)[0]]
    assert len(ids) == len(set(ids))


@pytest.fixture
def copied_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what notebooks depend on, in which a test may change files."""
    for folder in ("book", "experiments", "selfattn"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "notebook"),
    [
        ("selfattn/attention.py", "book/02_softmax.ipynb"),
        ("selfattn/scores.py", "experiments/scaling_training/scaling_training.ipynb"),
        ("selfattn/pretrained/minilm.py", "book/10_many_heads.ipynb"),
        ("experiments/training/seeds.py", "experiments/scaling_training/scaling_training.ipynb"),
        ("experiments/scaling_init/results/gaussian.csv", "book/06_scaling.ipynb"),
        ("experiments/scaling_training/results/claims.json", "book/ledger.ipynb"),
    ],
)
def test_a_changed_input_makes_the_outputs_stale(copied_tree: Path, changed: str, notebook: str) -> None:
    before = freshness.inputs(copied_tree / notebook)
    (copied_tree / changed).write_text((copied_tree / changed).read_text() + "\n")
    after = freshness.inputs(copied_tree / notebook)
    assert [read for read in after if after[read] != before[read]] == [changed]


@pytest.mark.parametrize(
    ("changed", "notebook"),
    [
        ("selfattn/pretrained/minilm.py", "book/02_softmax.ipynb"),
        ("experiments/training/seeds.py", "experiments/scaling_init/scaling_init.ipynb"),
        ("experiments/__main__.py", "experiments/scaling_training/scaling_training.ipynb"),
    ],
)
def test_a_file_that_is_not_loaded_changes_nothing(copied_tree: Path, changed: str, notebook: str) -> None:
    before = freshness.inputs(copied_tree / notebook)
    (copied_tree / changed).write_text("raise ImportError")
    assert freshness.inputs(copied_tree / notebook) == before


@every_notebook
def test_an_unrelated_pin_makes_nothing_stale(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = freshness.inputs(ALL[name])
    assert not any("requirements" in read for read in before)
    monkeypatch.setattr(sources, "_running", lambda package: f"other than {before.get(package)}")
    changed = {read for read, found in freshness.inputs(ALL[name]).items() if found != before[read]}
    providers = sources._providers().values()
    assert changed <= {package for packages in providers for package in packages}
    assert changed, "but another version of a package that it imports does"
    assert not {"ruff", "jupyter-book", "playwright", "transformers", "pytest"} & changed


@pytest.mark.parametrize(
    ("package", "notebook", "counts"),
    [
        ("torch", "experiments/heads/heads.ipynb", True),
        ("seaborn", "experiments/heads/heads.ipynb", True),  # which the notebook itself imports
        ("safetensors", "experiments/scaling_init/scaling_init.ipynb", True),
        ("safetensors", "experiments/heads/heads.ipynb", False),
        ("numpy", "book/02_softmax.ipynb", True),
        ("torch", "book/ledger.ipynb", False),
    ],
)
def test_a_package_counts_where_it_is_imported(package: str, notebook: str, counts: bool) -> None:
    assert (package in freshness.inputs(ROOT / notebook)) is counts


def test_code_counts_and_prose_does_not(copied_tree: Path) -> None:
    path = copied_tree / "book/02_softmax.ipynb"
    notebook = nbformat.read(path, 4)
    next(cell for cell in notebook.cells if cell.cell_type == "markdown").source += "\nMore words."
    nbformat.write(notebook, path)
    assert freshness.stale(path) == []
    assert freshness.stale(copied_tree / "book/ledger.ipynb") == [
        "text of 02_softmax"
    ]  # links may be among them
    next(cell for cell in notebook.cells if cell.cell_type == "code").source += "\n1 + 1"
    nbformat.write(notebook, path)
    assert freshness.stale(path) == ["cells"]
