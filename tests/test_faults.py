"""Whatever is killed, full, foreign or gone: a clear line, a right exit code, and no finished cell is lost.

Every command here is a real one, in a small copy of the project (`tests/project.py`).
"""

import contextlib
import json
import os
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest
from project import Project, wait_until

from experiments.engine import cluster, computing, workforce
from experiments.engine.command import main
from experiments.engine.notebooks import EXPERIMENTS
from experiments.engine.workforce import Workforce, failures

POINTS, LONGEST = 24, 200  # cells; seconds after which something hangs
TINY = f"tiny -p points {POINTS} --jobs 2"
SLOW = f"{TINY} -p pause 0.3"


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path / "project")
    yield made
    made.end()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project in which the experiment has run with nothing in its way."""
    made = Project(tmp_path_factory.mktemp("undisturbed") / "project")
    process = made.start(f"run {TINY}")
    wait_until(made.calls)
    made.listening = [
        address.laddr.ip
        for process in made.processes()
        for address in process.net_connections()
        if address.status == psutil.CONN_LISTEN
    ]
    made.out, made.err = process.communicate(timeout=LONGEST)
    assert process.returncode == 0, made.err
    yield made
    made.end()


def test_an_undisturbed_run_computes_each_cell_once_and_is_quiet(undisturbed: Project) -> None:
    assert undisturbed.calls() == dict.fromkeys(range(POINTS), 1)
    table = undisturbed.table()
    assert table["x"].tolist() == [x for x in range(POINTS) for _ in range(3)]
    assert set(table["threads"]) == {1}
    assert undisturbed.err == "", "no terminal, no progress"
    wait_until(undisturbed.gone)
    circumstances = json.loads((undisturbed.folder() / "run.json").read_text())
    assert (circumstances["cells"]["number"], circumstances["cells"]["kept"]) == (POINTS, 0)
    assert circumstances["cells"]["seconds"] > POINTS * 0.04
    assert {
        "parameters",
        "versions",
        "processor",
        "threads",
        "seconds",
        "fingerprint",
    } <= circumstances.keys()


def test_nothing_listens_but_on_loopback(undisturbed: Project) -> None:
    assert len(undisturbed.listening) >= 3, "the scheduler and two workers"
    assert set(undisturbed.listening) == {"127.0.0.1"}


def test_killed_at_random_moments_and_started_again(project: Project, undisturbed: Project) -> None:
    """The same results in the end, and nothing that was finished is computed again."""
    dice, finished = random.Random(0), {}
    for _ in range(10):
        process, before = project.start(f"run {SLOW}"), len(project.kept())
        if dice.random() < 0.5:  # when a cell or two more are kept, or at any time before
            wait_until(lambda before=before: len(project.kept()) > before)
            last = time.monotonic() + dice.uniform(0, 0.3)
        else:
            last = time.monotonic() + dice.uniform(0, 4)
        while time.monotonic() < last and len(project.kept()) < before + 3:
            time.sleep(0.01)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        wait_until(project.gone, within=20)  # kernels and workers notice that they are alone
        calls = project.calls()
        assert all(calls[x] == number for x, number in finished.items())
        finished = {x: calls[x] for x in project.kept()}
    project.run(f"run {SLOW}")
    calls = project.calls()
    assert all(calls[x] == number for x, number in finished.items())
    pd.testing.assert_frame_equal(project.table(), undisturbed.table())


@pytest.mark.parametrize(
    ("stop", "code"),
    [
        (lambda pid: os.killpg(pid, signal.SIGINT), 130),  # Ctrl-C in a terminal: the whole group
        (lambda pid: os.kill(pid, signal.SIGINT), 130),
        (lambda pid: os.kill(pid, signal.SIGTERM), 143),
        (lambda pid: os.kill(pid, signal.SIGHUP), 129),  # the terminal was closed
    ],
    ids=["Ctrl-C", "SIGINT", "SIGTERM", "SIGHUP"],
)
def test_interrupted(project: Project, stop: Callable[[int], None], code: int) -> None:
    process = project.start(f"run {SLOW}")
    wait_until(lambda: len(project.kept()) >= 2)
    stop(process.pid)
    _, err = process.communicate(timeout=LONGEST)
    assert process.returncode == code, err
    wait_until(project.gone, within=20)
    kept, calls = project.kept(), project.calls()
    assert {path.suffix for path in project.store.iterdir()} == {".json"}, "no drafts"
    if code != 130:
        return
    assert err.splitlines()[-1].startswith("interrupted; finished cells are kept"), err
    x, spoilt = min(kept.items())
    spoilt.write_text(spoilt.read_text()[:40])
    _, err = project.run(f"run {SLOW}")
    assert f"{spoilt} is no finished cell" in err
    assert {other: project.calls()[other] - calls[other] for other in kept} == dict.fromkeys(kept, 0) | {x: 1}


def test_a_worker_that_is_killed_is_replaced_and_its_cell_computed_again(
    project: Project, undisturbed: Project
) -> None:
    ours, theirs = pty.openpty()  # a terminal: progress is shown
    termios.tcsetwinsize(theirs, (24, 120))
    process = project.start(f"run {TINY} -p fault die", stderr=theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # which ends the reading when the last writer has gone
        while some := os.read(ours, 4096):
            shown += some
    os.close(ours)
    assert process.wait(LONGEST) == 0, shown
    process.communicate()
    calls = project.calls()
    assert calls[2] == 2
    assert sum(calls.values()) <= POINTS + 2, "and at most what the worker had not handed over"
    pd.testing.assert_frame_equal(project.table(), undisturbed.table())
    wait_until(project.gone)
    assert "0 of 1 notebooks done, tiny running" in shown.decode()
    assert f"{POINTS}/{POINTS}" in shown.decode()
    assert "Restarting worker" in shown.decode()


def test_a_cell_that_raises(project: Project) -> None:
    _, err = project.run(f"run {TINY} -p fault raise", code=1)
    said = err.splitlines()[-1]  # after what the worker logs of it
    assert said.startswith("tiny raised CellFailed: experiments.tiny.measure.compute at {'x': 2, ")
    assert "raised ArithmeticError: no result at two; its traceback is in runs/tiny-" in said
    assert 2 not in project.kept()
    wait_until(project.gone)


def test_a_kernel_that_is_killed(project: Project) -> None:
    process = project.start(f"run {SLOW}")
    wait_until(lambda: len(project.kept()) >= 2)
    (kernel,) = (found for found in project.processes() if "ipykernel_launcher" in found.cmdline())
    kernel.kill()
    _, err = process.communicate(timeout=LONGEST)
    assert process.returncode == 1
    assert err.endswith("tiny: its kernel died; what it had finished is kept\n")
    assert len(project.kept()) >= 2
    wait_until(project.gone)


MOUNT = "mkdir -p runs/cells && mount -t tmpfs -o size=16k tmpfs runs/cells"


def mounting_is_permitted(folder: Path) -> bool:
    return (
        shutil.which("unshare") is not None
        and not subprocess.run(
            ["unshare", "-rm", "sh", "-c", MOUNT], cwd=folder, capture_output=True
        ).returncode
    )


@pytest.mark.parametrize("kind", ["mounted", "limited"])
def test_a_full_disk(project: Project, kind: str) -> None:
    """A store on a disk of 16 kB or, where nobody may mount one, files of at most 512 bytes."""
    if kind == "mounted":
        if not mounting_is_permitted(project.root):
            pytest.skip("nobody may mount a small disk here; the case `limited` fills one everywhere")
        typed = (
            f"{MOUNT}; {sys.executable} -m experiments run {TINY}; code=$?; cp -r runs/cells seen; exit $code"
        )
        command = ["unshare", "-rm", "sh", "-c", typed]
    else:
        command = ["sh", "-c", f"ulimit -f 1; exec {sys.executable} -m experiments run {TINY}"]
    ended = subprocess.run(command, cwd=project.root, env=project.environment, capture_output=True, text=True)
    assert ended.returncode == 1, ended.stderr
    reason = "No space left on device" if kind == "mounted" else "File too large"
    said = ended.stderr.splitlines()[-1]
    assert re.match(rf"tiny.*{reason}: '/\S+'", said), ended.stderr
    if kind == "mounted":
        seen = list((project.root / "seen").iterdir())
        assert 0 < len(seen) < POINTS
        assert all("rows" in json.loads(path.read_text()) for path in seen)


def test_two_commands_at_once_and_then_other_code(project: Project, undisturbed: Project) -> None:
    both = [project.start(f"run {TINY}") for _ in range(2)]
    for process in both:
        _, err = process.communicate(timeout=LONGEST)
        assert (process.returncode, err) == (0, "")
    pd.testing.assert_frame_equal(project.table(), undisturbed.table())
    assert set(project.kept()) == set(range(POINTS))
    assert {path.suffix for path in project.store.iterdir()} == {".json"}
    code = project.root / "experiments/tiny/measure.py"
    code.write_text(code.read_text().replace("x + 0.1", "x + 0.2"))
    project.run(f"run {TINY}")
    changed = undisturbed.table()["x"] + 0.2
    assert (project.table()["value"] - changed * project.table()["seed"]).abs().max() < 1e-3
    out, _ = project.run("status", code=1)
    fresh_and_older = f"{POINTS} fresh, {POINTS} older (changed: experiments/tiny/measure.py)"
    assert f"cells of experiments.tiny.measure.compute: {fresh_and_older}" in out


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "tcp://127.0.0.1:1", "nonsense", "tcp://", "gopher://x:1"]
)
def test_a_scheduler_that_cannot_be_reached(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cluster, "PATIENCE", 0.5)
    monkeypatch.setattr(workforce, "ThreadPoolExecutor", None)  # no notebook is started
    assert main(["run", "scaling_init", "--profile", "smoke", "--scheduler", address]) == 2
    err = capsys.readouterr().err
    assert f"no scheduler answers at {address}: " in err
    assert err.count("\n") == 1


def test_a_cluster_started_by_hand(project: Project, undisturbed: Project, tmp_path: Path) -> None:
    """A scheduler and two workers in three folders that share nothing give the same records."""
    folders = [Project(tmp_path / name) for name in ("scheduler", "one", "two")]
    place = tmp_path / "address"
    scheduler = folders[0].start(
        f"scheduler --host 127.0.0.1 --port 0 --dashboard-address 127.0.0.1:0 --scheduler-file {place}",
        module="dask",
    )
    try:
        wait_until(lambda: place.exists() and place.read_text().endswith("}"))
        address = json.loads(place.read_text())["address"]
        _, err = project.run(f"run {TINY} --scheduler {address}", code=2)
        assert "has no workers; start one: dask worker" in err
        for folder in folders[1:]:
            folder.environment["TINY_LOG"] = str(project.log)
            folder.start(f"worker {address} --nthreads 1 --no-dashboard --host 127.0.0.1", module="dask")
        wait_until(lambda: all(listening_to(address, folder) for folder in folders[1:]))
        project.run(f"run {TINY} --scheduler {address}")
        pd.testing.assert_frame_equal(project.table(), undisturbed.table())
        assert project.calls() == dict.fromkeys(range(POINTS), 1)
        assert len({line.split()[1] for line in project.log.read_text().splitlines()}) == 2, "both workers"
        assert not any((folder.root / "runs").exists() for folder in folders), "the store is the client's"

        code = project.root / "experiments/tiny/measure.py"
        code.write_text(code.read_text() + "# other\n")
        _, err = project.run(f"run {TINY} --scheduler {address}", code=1)
        assert "raised DifferentCode: the worker in " in err
        assert "runs another experiments/tiny/measure.py" in err

        code.write_text(code.read_text().removesuffix("# other\n"))
        process = project.start(f"run {SLOW} --scheduler {address}")
        wait_until(lambda: len(list(project.store.iterdir())) > POINTS)
        scheduler.kill()
        _, err = process.communicate(timeout=LONGEST)
        assert process.returncode == 1
        assert "tiny raised CellFailed" in err
        wait_until(project.gone)
    finally:
        for folder in folders:
            folder.end()


def listening_to(address: str, folder: Project) -> bool:
    """Whether a worker of that folder is connected to the scheduler."""
    port = int(address.rpartition(":")[2])
    return any(
        connection.raddr and connection.raddr.port == port
        for process in folder.processes()
        for connection in process.net_connections()
    )


FEW = "run tiny -p points 2 --jobs 1"
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    ("surroundings", "threads"),
    [
        ({"TMPDIR": "/proc/nonexistent"}, "1"),
        ({"HOME": "/proc/nonexistent", "COLUMNS": "20"}, "1"),
        ({"OMP_NUM_THREADS": ""}, "1"),
        ({"OMP_NUM_THREADS": "2,1", "PYTHONWARNINGS": "error"}, "2"),
        (ASCII, "1"),
    ],
    ids=["no TMPDIR", "no HOME, a narrow terminal", "no threads", "warnings are errors", "ASCII"],
)
def test_the_surroundings_of_a_command_change_nothing(
    project: Project, undisturbed: Project, surroundings: dict[str, str], threads: str
) -> None:
    project.environment |= surroundings
    _, err = project.run(FEW)
    assert err == ""
    found = project.table()
    assert set(found.pop("threads").astype(str)) == {threads}
    expected = undisturbed.table().drop(columns="threads")
    pd.testing.assert_frame_equal(found, expected[expected["x"] < 2])
    assert json.loads((project.folder() / "run.json").read_text())["threads"] == int(threads)


@pytest.mark.parametrize("name", ["t" * 120, "ü {x}"])
def test_a_temporary_folder_with_a_long_or_an_odd_name(project: Project, tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    project.environment["TMPDIR"] = str(tmp_path / name)
    assert project.run(FEW)[1] == ""
    assert project.kept().keys() == {0, 1}
    assert list((tmp_path / name).glob("[!d]*")) == [], "but for Dask's own, nothing is left there"


def test_a_project_in_a_folder_with_an_odd_name(tmp_path: Path) -> None:
    made = Project(tmp_path / "ü {x} [y]")
    assert made.run(FEW)[1] == ""
    assert made.kept().keys() == {0, 1}
    made.end()


def test_kernels_are_this_pythons_and_nobody_elses(project: Project, tmp_path: Path) -> None:
    """Not another environment's `python3`, and without what a user's IPython and Jupyter are told to do."""
    trace = tmp_path / "foreign"
    spy = f"open({str(trace)!r}, 'w').close()"
    kernels = tmp_path / "share/kernels/python3"
    kernels.mkdir(parents=True)
    argv = [sys.executable, "-c", f"{spy}; import ipykernel_launcher as k; k.app.launch_new_instance()"]
    spec = {"argv": [*argv, "-f", "{connection_file}"], "display_name": "other", "language": "python"}
    (kernels / "kernel.json").write_text(json.dumps(spec))
    profile = tmp_path / "ipython/profile_default"
    (profile / "startup").mkdir(parents=True)
    (tmp_path / "config").mkdir()
    for place in ("ipython/profile_default/startup/00.py", "ipython/profile_default/ipython_config.py"):
        (tmp_path / place).write_text(spy)
    for place in ("config/jupyter_config.py", "config/ipython_kernel_config.py", "startup.py"):
        (tmp_path / place).write_text(spy)
    project.environment |= {
        "JUPYTER_PATH": str(tmp_path / "share"),
        "JUPYTER_DATA_DIR": str(tmp_path / "share"),
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "PYTHONSTARTUP": str(tmp_path / "startup.py"),
    }
    assert project.run(FEW)[1] == ""
    assert not trace.exists()


def test_kernels_run_the_commands_own_copy_of_the_project(project: Project) -> None:
    """Also where PYTHONPATH doesn't name it and another copy is installed."""
    del project.environment["PYTHONPATH"]
    assert project.run(FEW)[1] == "", "only this copy has the experiment"


def test_a_kernel_that_cannot_start(project: Project) -> None:
    (project.root / "ipykernel_launcher.py").write_text("raise SystemExit(3)")
    _, err = project.run(FEW, code=1)
    assert err.splitlines()[-1].startswith("tiny: no kernel could be started: ")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_the_shell_has_closed(project: Project, closed: str) -> None:
    typed = f"exec {sys.executable} -m experiments {FEW} {closed}"
    assert subprocess.run(["sh", "-c", typed], cwd=project.root, env=project.environment).returncode == 0
    assert project.kept().keys() == {0, 1}


@pytest.mark.parametrize(
    ("typed", "unbuffered"),
    [
        ("list", ""),
        ("list", "1"),
        ("list --json", "1"),
        ("status", ""),
        ("--help", ""),
        (f"{FEW} --json", ""),
    ],
)
def test_a_reader_that_has_gone_is_no_error(project: Project, typed: str, unbuffered: str) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    project.environment["PYTHONUNBUFFERED"] = unbuffered
    process = project.start(typed, stdout=theirs)
    os.close(theirs)
    assert process.communicate(timeout=LONGEST)[1] == ""
    assert process.returncode == 141


def test_stdout_on_a_full_disk(project: Project) -> None:
    with open("/dev/full", "w") as full:
        _, err = project.run("list", code=1, stdout=full)
    assert err == "python -m experiments: [Errno 28] No space left on device\n"


def test_a_broken_pipe_that_is_not_stdout_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = BrokenPipeError(32, "Broken pipe")
    assert failures({"tiny": broken}, Path) == {"tiny": "tiny: [Errno 32] Broken pipe"}

    def raising(**_: object) -> None:
        raise broken

    monkeypatch.setattr(cluster, "LocalCluster", raising)
    assert main(["run", "scaling_init"]) == 1
    assert capsys.readouterr().err == "python -m experiments: [Errno 32] Broken pipe\n"


def test_without_loopback_every_notebook_computes_its_own_cells(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cluster.obstacle() is None
    monkeypatch.chdir(tmp_path)

    def unreachable(*_: object, **__: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(cluster.socket, "create_connection", unreachable)
    with Workforce(1, None, False).environment([EXPERIMENTS["scaling_init"]]) as told:
        assert computing.SCHEDULER not in told
    assert "no cluster here ([Errno 101] Network is unreachable)" in capsys.readouterr().err


@pytest.mark.parametrize("lost", ["claims.json", "tiny.ipynb"])
def test_an_error_at_the_end_loses_nothing(project: Project, tmp_path: Path, lost: str) -> None:
    """The record, or the executed notebook, cannot be written: a folder lies in its place."""
    project.environment["TMPDIR"] = str(tmp_path)
    project.run(FEW)
    calls = project.calls()
    place = project.folder() / lost
    place.unlink()
    place.mkdir()
    _, err = project.run(FEW, code=1)
    assert len(err.splitlines()) == 1
    assert f"Is a directory: '{place.relative_to(project.root)}'" in err
    copy = project.root / err.rstrip().partition("; the executed notebook is ")[2]
    assert "application/vnd.selfattn.record" in copy.read_text()
    place.rmdir()
    project.run(FEW)
    assert project.calls() == calls
    assert place.is_file()


def test_a_claim_that_cannot_be_formed_loses_nothing(project: Project) -> None:
    path = project.root / "experiments/tiny/tiny.ipynb"
    notebook, whole = nbformat.read(path, 4), path.read_text()
    notebook.cells.append(nbformat.v4.new_code_cell("raise ValueError('no finite number')"))
    nbformat.write(notebook, path)
    _, err = project.run(FEW, code=1)
    copy = project.folder() / "tiny.ipynb"
    assert err == (
        "tiny raised ValueError: no finite number; "
        f"its traceback is in {copy.relative_to(project.root)}, and its finished cells are kept\n"
    )
    assert "application/vnd.selfattn.record" in copy.read_text()
    path.write_text(whole)
    calls = project.calls()
    project.run(FEW)
    assert project.calls() == calls
