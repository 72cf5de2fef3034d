"""`python -m experiments` as a user types it: refusals before anything starts, failures that lose nothing."""

import ast
import contextlib
import io
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest

from experiments.engine import execution, notebooks, runs, store
from experiments.engine.claims import Record
from experiments.engine.command import main
from experiments.engine.notebooks import CHAPTERS, EXPERIMENTS


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: object) -> None:
        raise AssertionError("a notebook was started")

    monkeypatch.setattr(execution, "execute", started)


@pytest.mark.usefixtures("no_kernel")
@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("run nonesuch", "unknown experiment 'nonesuch'; there are "),
        ("show nonesuch", "unknown experiment 'nonesuch'"),
        ("refresh nonesuch", "unknown notebook nonesuch"),
        ("run scaling_init --profile huge", "no profile 'huge'; there are default, smoke, full"),
        ("run scaling_init -p d_q [4]", "no parameter d_q; there are d_k"),
        ("run scaling_init -p seeds many", "scaling_init: seeds is a int, such as 12; got 'many'"),
        ("run scaling_init -p seeds 2.5", "seeds is a int"),
        ("run scaling_init -p seeds [1,2]", "seeds is a int"),
        ("run scaling_init -p seeds True", "seeds is a int"),
        ("run scaling_init -p d_k 4", "d_k is a list of int"),
        ("run scaling_init -p d_k []", "d_k is a list of int"),
        ("run scaling_init -p d_k [4,'a']", "d_k is a list of int"),
        ("run scaling_training -p learning_rates ['fast']", "learning_rates is a list of float"),
        ("run scaling_init scaling_training -p batch 3.5", "batch is a int"),
        ("run bug_zoo -p margin nan", "margin is a float, such as 0.05; got 'nan'"),
        ("run bug_zoo -p margin -inf", "margin is a float"),
        ("run bug_zoo -p margin -1e999", "margin is a float"),
        (f"run bug_zoo -p margin 1{'0' * 400}", "margin is a float"),
        ("run bug_zoo -p learning_rates [0.1,1e999]", "learning_rates is a list of float"),
        ("run bug_zoo -p margin {[]:1}", "margin is a float"),
        (f"run bug_zoo -p margin {'(' * 400}", "margin is a float"),
        ("run bug_zoo -p seeds 2 -p margin 1 -p seeds 3", "-p is given more than once for seeds"),
        (
            "run scaling_init scaling_training -p learning_rates [0.1]",
            "scaling_init has no parameter learning_rates",
        ),
    ],
)
def test_a_request_that_cannot_be_met_is_one_line_and_exit_code_2(
    typed: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(typed.split()) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_typed_values_become_the_parameters_type() -> None:
    changes = {"learning_rates": "[1, 1e-3]", "steps": "7"}
    assert notebooks.settings("scaling_training", changes=changes) == {
        "learning_rates": [1.0, 0.001],
        "steps": 7,
    }
    smoke = notebooks.settings("scaling_training", "smoke", {"d_k": "4, 8"})
    assert smoke["d_k"] == [4, 8]
    assert smoke["steps"] == notebooks.profiles(EXPERIMENTS["scaling_training"])["smoke"]["steps"]


@pytest.mark.parametrize("value", ["-1e-3", "-5", "[-1, 2]", "-x", "--fresh", "-p"])
def test_a_value_may_begin_with_a_minus(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = []
    monkeypatch.setattr(runs, "run", lambda *said: typed.append(said) or 0)
    assert main(["run", "bug_zoo", "-p", "a", value, "--jobs", "3", "-p", "b", value, "--json"]) == 0
    ((names, _, changes, workforce, as_json),) = typed
    assert (names, changes) == (["bug_zoo"], {"a": value, "b": value})
    assert (workforce.jobs, as_json) == (3, True)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("run bug_zoo --jobs 0", "--jobs: a number from 1 on; got '0'"),
        ("run bug_zoo --jobs -1", "--jobs: a number from 1 on; got '-1'"),
        ("run bug_zoo --jobs two", "--jobs: a number from 1 on; got 'two'"),
        ("run bug_zoo -p margin", "-p: expected 2 arguments"),
        ("show bug_zoo -p margin 1", "unrecognized arguments: -p margin 1"),
    ],
)
def test_a_command_line_that_makes_no_sense(
    typed: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(typed.split())
    assert capsys.readouterr().err.endswith(f"{said}\n")


@pytest.mark.usefixtures("no_kernel")
@pytest.mark.parametrize("typed", ["run scaling_init", "refresh page"])
@pytest.mark.parametrize("obstacle", ["a file", "a link to nowhere"])
def test_a_folder_that_cannot_be_written_is_said_before_a_notebook_runs(
    elsewhere: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    typed: str,
    obstacle: str,
) -> None:
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]), elsewhere / "page.ipynb")
    monkeypatch.setitem(CHAPTERS, "page", elsewhere / "page.ipynb")
    if obstacle == "a file":
        (elsewhere / "runs").touch()
    else:
        (elsewhere / "runs").symlink_to("/nonexistent/folder")
    assert main(typed.split()) == 2
    err = capsys.readouterr().err
    assert "nothing can be written into runs/" in err
    assert err.count("\n") == 1


@pytest.mark.usefixtures("no_kernel")
@pytest.mark.parametrize("threads", ["many", "0", "-2", "1.5", ",2"])
def test_a_number_of_threads_that_is_none(
    threads: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert main(["run", "scaling_init"]) == 2
    said = f"OMP_NUM_THREADS is a number of threads, such as 2; got {threads!r}\n"
    assert capsys.readouterr().err == f"python -m experiments: {said}"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_profiles_name_real_parameters(name: str) -> None:
    defaults, known = notebooks.parameters(EXPERIMENTS[name]), notebooks.profiles(EXPERIMENTS[name])
    assert list(known) == ["default", "smoke", "full"]
    for changes in known.values():
        assert changes.keys() <= defaults.keys()
        assert all(type(value) is type(defaults[key]) for key, value in changes.items())


def run_here(notebook: nbformat.NotebookNode, changes: dict[str, object]) -> Record:
    """What a notebook records, with other parameters, when its cells run in this process."""
    names: dict[str, object] = {}
    record = None
    for cell in notebook.cells:
        if cell.cell_type == "code":
            *statements, last = ast.parse(cell.source).body
            value = ast.Expression(last.value) if isinstance(last, ast.Expr) else ast.Module([last], [])
            exec(compile(ast.Module(statements, []), "<cell>", "exec"), names)
            shown = eval(compile(value, "<cell>", "eval" if isinstance(last, ast.Expr) else "exec"), names)
            record = shown if isinstance(shown, Record) else record
        if "parameters" in cell.metadata.get("tags", []):
            names |= changes
    assert record is not None
    return record


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_at_the_smoke_profile_it_decides_nothing(
    name: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(store.PLACE, str(elsewhere / "cells"))
    changes = notebooks.settings(name, "smoke")
    with mpl.rc_context(), contextlib.redirect_stdout(io.StringIO()):
        record = run_here(nbformat.read(EXPERIMENTS[name], 4), changes)
        plt.close("all")
    assert {claim["verdict"] for claim in record.claims} == {"not tested"}
    assert record.tables


def test_two_experiments_at_the_smoke_profile(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in EXPERIMENTS.keys() - {"scaling_init", "rank_collapse"}:
        monkeypatch.delitem(EXPERIMENTS, name)
    published = {path: path.read_bytes() for path in EXPERIMENTS.values()}
    assert main(["run", "--profile", "smoke"]) == 0
    shown = capsys.readouterr().out
    for name in EXPERIMENTS:
        assert f"{name}: runs/{name}-smoke" in shown
        executed = nbformat.read(elsewhere / f"runs/{name}-smoke/{name}.ipynb", 4)
        assert all(cell.execution_count for cell in executed.cells if cell.cell_type == "code")
        claims = pd.read_json(elsewhere / f"runs/{name}-smoke/claims.json")
        assert set(claims["verdict"]) == {"not tested"}, "a smoke run decides nothing"
    assert {path: path.read_bytes() for path in published} == published, "a run changes no published notebook"


def test_other_parameters_give_another_table_and_picture(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLBACKEND", "Agg")  # a shell's own setting takes no picture away
    typed = "run scaling_init -p d_k [2,32] -p seeds 2 -p batch 2"
    assert main(typed.split()) == 0
    (run,) = (elsewhere / "runs").glob("scaling_init-*")
    assert set(pd.read_csv(run / "gaussian.csv")["d_k"]) == {2, 32}
    pictures = [
        output.data["image/png"]
        for path in (run / "scaling_init.ipynb", EXPERIMENTS["scaling_init"])
        for cell in nbformat.read(path, 4).cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 6
    assert pictures[0] != pictures[3]


def test_a_notebook_that_raises_is_kept_and_the_others_go_on(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    new = nbformat.v4
    for name, code in {"good": "print(6 * 7)", "broken": "1 / 0"}.items():
        cells = [new.new_code_cell("a = 1", metadata={"tags": ["parameters"]}), new.new_code_cell(code)]
        nbformat.write(new.new_notebook(cells=cells), elsewhere / f"{name}.ipynb")
        monkeypatch.setitem(EXPERIMENTS, name, elsewhere / f"{name}.ipynb")
    assert main(["run", "broken", "good"]) == 1
    said = capsys.readouterr()
    assert "broken raised ZeroDivisionError: division by zero" in said.err
    assert "good: runs/good-default" in said.out
    assert "ZeroDivisionError" in (elsewhere / "runs/broken-default/broken.ipynb").read_text()
    assert "42" in (elsewhere / "runs/good-default/good.ipynb").read_text()


def test_refresh_executes_what_is_stale_and_nothing_else(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = elsewhere / "page.ipynb"
    cells = [nbformat.v4.new_code_cell("import selfattn\nprint(6 * 7)")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), page)
    monkeypatch.setitem(CHAPTERS, "page", page)
    assert main(["refresh", "page"]) == 0
    first = page.read_text()
    assert "42" in first
    assert "selfattn/softmax.py" in first, "the notebook's inputs are kept with it"
    assert main(["refresh", "page"]) == 0
    assert "up to date" in capsys.readouterr().out
    page.write_text(first.replace("6 * 7", "1 / 0"))
    stale = page.read_bytes()
    assert main(["refresh", "page"]) == 1
    assert page.read_bytes() == stale, "a notebook that raises replaces nothing"
    assert "ZeroDivisionError" in (elsewhere / "runs/refresh/page.ipynb").read_text()


def test_list_status_and_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert "What does 1/√d_k do before any training?" in capsys.readouterr().out
    assert main(["status"]) == 0
    assert all(line.endswith(" fresh") for line in capsys.readouterr().out.splitlines())
    assert main(["show", "scaling_init"]) == 0
    shown = capsys.readouterr().out
    assert "scaling-init-variance" in shown
    assert "processor" in shown
