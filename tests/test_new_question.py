"""Adding a question as CONTRIBUTING says: a folder copied, its task changed, run, published, read."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NAME, TITLE = "sorted_lookup", "Does QK-norm help where the facts are sorted?"
DRAW = '''
def draw(source: torch.Generator, size: int) -> lookup.Batch:
    """The lookup's examples, their facts in the order of the keys."""
    given = lookup.draw(source, size)
    keys, places = given.keys.sort(-1)
    return given._replace(keys=keys, values=given.values.gather(1, places))


TRAINED'''
SMALL = "learning_rates = [0.01, 0.1]\nlarge = 0.1\nseeds = 8\nfirst_seed = 1000\nsteps = 3\n"
SMALL += "batch = 4\nd_model = 8\nd_k = 8"

Do = Callable[..., str]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository, as an author has it."""
    root = tmp_path_factory.mktemp("author") / "project"
    ignored = shutil.ignore_patterns(".*", "_build", "runs", "shared", "mutants", "__pycache__")
    return shutil.copytree(ROOT, root, ignore=ignored)


@pytest.fixture(scope="module")
def do(project: Path) -> Do:
    """What a command prints there, once it has succeeded."""

    def do(*typed: str, **environment: str) -> str:
        told = os.environ | {"PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"} | environment
        command = [sys.executable, "-m", *typed]
        done = subprocess.run(command, cwd=project, env=told, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return do


@pytest.fixture(scope="module")
def added(project: Path) -> Path:
    """The new folder: another question's, with a task, a title and names of its own."""
    folder = shutil.copytree(project / "experiments/qk_norm", project / "experiments" / NAME)
    shutil.rmtree(folder / "results")
    (folder / "qk_norm.ipynb").rename(folder / f"{NAME}.ipynb")
    measure = folder / "measure.py"
    task = measure.read_text(encoding="utf-8").replace("lookup.draw,", "draw,").replace("TRAINED", DRAW, 1)
    measure.write_text(task.replace("\n\n\n\n", "\n\n\n"), encoding="utf-8")
    notebook = nbformat.read(folder / f"{NAME}.ipynb", 4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("qk_norm", NAME).replace("qk-norm", NAME.replace("_", "-"))
        if cell.source.startswith("(exp-"):
            cell.source = f"(exp-{NAME.replace('_', '-')})=\n# {TITLE}"
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = SMALL
    nbformat.write(notebook, folder / f"{NAME}.ipynb")
    contents = project / "_toc.yml"
    last = "      - file: experiments/bug_zoo/bug_zoo\n"
    place = f"{last}      - file: experiments/{NAME}/{NAME}\n"
    contents.write_text(contents.read_text(encoding="utf-8").replace(last, place), encoding="utf-8")
    return folder


def test_a_question_is_added(project: Path, added: Path, do: Do) -> None:
    assert TITLE in do("experiments", "list")
    assert f"{NAME.replace('_', '-')}-large-rate" in do("experiments", "run", NAME, "--profile", "smoke")
    assert not (added / "results").exists()
    do("experiments", "refresh", NAME, "ledger")
    recorded = {path.name for path in (added / "results").iterdir()}
    assert recorded == {"cells.jsonl", "claims.json", "run.json", "trained.csv"}
    assert TITLE in do("experiments", "show", NAME)
    ledger = nbformat.read(project / "book/ledger.ipynb", 4)
    shown = "".join(
        output["data"].get("text/markdown", "")
        for cell in ledger.cells
        for output in cell.get("outputs", [])
        if "data" in output
    )
    assert f"{{ref}}`exp-{NAME.replace('_', '-')}`" in shown
    assert f"python -m experiments run {NAME}" in shown

    # what holds every question holds this one: the project's own tests, its contracts, nbval
    mine = f"{NAME} or place or run_downhill or is_a_folder"
    held = ("tests/test_notebooks.py", "tests/test_pages.py", "tests/test_architecture.py")
    served = {"SELFATTN_RECORD": "sample", "SELFATTN_FRESH": "1"}
    nbval = ("-o", "addopts=", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env")
    ended = do("pytest", *nbval, *held, f"experiments/{NAME}/{NAME}.ipynb", "-k", mine, "-v", **served)
    for one in ("test_notebooks.py", "test_pages.py", "run_downhill", f"{NAME}::ipynb::"):
        assert one in ended
