import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.engine import freshness
from experiments.engine.notebooks import CHAPTERS, EXPERIMENTS

ROOT = Path(__file__).parents[1]
LINT = "from importlinter.cli import lint_imports_command as lint; lint(['--no-cache', '--no-logo'])"


def python(*arguments, root=ROOT):
    """What a fresh interpreter prints, and its exit status."""
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True
    )
    return done.stdout + done.stderr, done.returncode


def test_imports_run_downhill():
    said, status = python("-c", LINT)
    assert status == 0, said
    assert "0 broken" in said


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A copy of the modules, whose imports a test may change."""
    root = tmp_path_factory.mktemp("modules")
    for folder in ("experiments", "selfattn"):
        ignored = shutil.ignore_patterns("__pycache__", "results", "*.ipynb")
        shutil.copytree(ROOT / folder, root / folder, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", root)
    return root


@pytest.mark.parametrize(
    ("module", "imported", "contract"),
    [
        ("experiments/heads/measure", "experiments.recall.measure", "A question stands alone"),
        ("experiments/heads/measure", "experiments.bug_zoo.bugs", "A question stands alone"),
        ("experiments/heads/measure", "experiments.engine.cells", "A question stands alone"),
        ("experiments/tasks/facts", "experiments.heads.measure", "A question stands alone"),
        ("experiments/training/sweep", "experiments.heads.measure", "A question stands alone"),
        ("experiments/engine/cells", "experiments.heads.measure", "A question stands alone"),
        ("experiments/engine/cells", "experiments.tasks.facts", "Tasks and training don't"),
        ("experiments/tasks/facts", "experiments.engine.cells", "Tasks and training don't"),
        ("experiments/training/sweep", "experiments.tasks.facts", "Tasks and training don't"),
        ("experiments/engine/machine", "torch", "The engine knows nothing of attention"),
        ("experiments/engine/cells", "selfattn", "The engine knows nothing of attention"),
        ("experiments/engine/store", "experiments.engine.cells", "The engine's imports run downhill"),
        ("experiments/training/seeds", "experiments.training.sweep", "Training runs downhill"),
        ("selfattn/scores", "experiments.engine.cells", "The library knows nothing of the experiments"),
    ],
)
def test_an_import_uphill_is_noticed(copied, module, imported, contract):
    file = copied / f"{module}.py"
    before = file.read_text()
    file.write_text(f"{before}\nimport {imported}\n")
    try:
        said, status = python("-c", LINT, root=copied)
    finally:
        file.write_text(before)
    assert status == 1
    broken = [line for line in said.splitlines() if " BROKEN" in line]
    assert any(line.startswith(contract) for line in broken), said


def test_a_new_module_of_the_engine_has_to_find_its_floor(copied):
    new = copied / "experiments/engine/new.py"
    new.touch()
    said, status = python("-c", LINT, root=copied)
    new.unlink()
    assert status == 1
    assert "experiments.engine" in said


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_imports_no_experiment(name):
    assert not {module for module in freshness.loaded(CHAPTERS[name]) if module.startswith("experiments")}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_questions_notebook_imports_no_other_question(name):
    packages = {
        module.split(".")[1] for module in freshness.loaded(EXPERIMENTS[name]) if "experiments." in module
    }
    assert packages <= {"engine", "tasks", "training", name}


def test_a_question_is_a_folder_with_a_notebook_of_its_name():
    folders = {path.parent.name for path in (ROOT / "experiments").glob("*/__init__.py")}
    assert folders == EXPERIMENTS.keys() | {"engine", "tasks", "training"}
    assert all((path.parent / "measure.py").exists() for path in EXPERIMENTS.values())


def test_the_mechanism_loads_neither_torch_nor_matplotlib():
    said, status = python(
        "-c", "import selfattn, sys; print({'torch', 'matplotlib', 'numpy'} & {*sys.modules})"
    )
    assert (said, status) == ("{'numpy'}\n", 0)
