"""A small copy of the project with one tiny experiment, whose commands a test may kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import nbformat
import pandas as pd
import psutil

ROOT = Path(__file__).parents[1]

MEASURE = '''
"""A measure that says in a file when it is called; what else it does, the parameter `fault` says."""

import os
import signal
import time
from pathlib import Path




def compute(x, seeds, pause, fault):
    log = Path(os.environ["TINY_LOG"])
    with log.open("a") as file:
        file.write(f"{x} {os.getpid()}\\n")
    time.sleep(pause)
    if fault == "raise" and x == 2:
        raise ArithmeticError("no result at two")
    if fault == "die" and x == 2 and log.read_text().count("2 ") == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    threads = os.environ["OMP_NUM_THREADS"]
    return [{"seed": seed, "value": (x + 0.1) * seed, "threads": threads} for seed in seeds]
'''.lstrip()

IMPORTS = """
from experiments.engine import cells
from experiments.engine.claims import Record
from experiments.tiny import measure
""".strip()
NOTEBOOK = [
    ("parameters", "points = 8\nseeds = [1, 2, 3]\npause = 0.05\nfault = 'none'"),
    ("profiles", "profiles = {'smoke': {'points': 3}, 'full': {'points': 20}}"),
    (None, IMPORTS),
    (None, "grid = cells.grid(x=range(points), seeds=[seeds], pause=pause, fault=fault)"),
    (None, "table = cells.measure(measure.compute, grid).drop(columns=['pause', 'fault'])"),
    ("nbval-check-output", "Record([], tiny=table)"),
]


def _listen() -> None:
    """Let Ctrl-C and SIGHUP reach the command, also behind a shell's `&` or `nohup`, which ignore them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Project:
    """The copy's folder, and what a user does in it."""

    def __init__(self, root: Path) -> None:
        self.started: list[subprocess.Popen] = []
        self.root, self.log, self.store = root, root / "log", root / "runs/cells"
        ignored = shutil.ignore_patterns("__pycache__", "results", "*.ipynb")
        for folder in ("experiments", "selfattn"):
            shutil.copytree(ROOT / folder, root / folder, ignore=ignored)
        question = root / "experiments/tiny"
        question.mkdir()
        (question / "__init__.py").touch()
        (question / "measure.py").write_text(MEASURE)
        code = [
            nbformat.v4.new_code_cell(text, metadata={"tags": [tag]} if tag else {}) for tag, text in NOTEBOOK
        ]
        nbformat.write(nbformat.v4.new_notebook(cells=code), question / "tiny.ipynb")
        self.environment = {
            key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"
        } | {
            "PYTHONPATH": str(root),
            "OMP_NUM_THREADS": "1",
            "TINY_LOG": str(self.log),
            "MARK": str(root),  # by which `processes` knows them
        }

    def start(self, typed: str, module: str = "experiments", **options: object) -> subprocess.Popen:
        """`python -m experiments …` in the project's folder, in a process group of its own."""
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        options = {"cwd": self.root, "env": self.environment, "preexec_fn": _listen} | streams | options
        typed = [sys.executable, "-m", module, *typed.split()]
        self.started.append(subprocess.Popen(typed, text=True, start_new_session=True, **options))
        return self.started[-1]

    @property
    def results(self) -> Path:
        """Where the published run of the experiment is recorded."""
        return self.root / "experiments/tiny/results"

    def change(self, file: str, old: str, new: str) -> None:
        """Write other words into one of the experiment's files."""
        path = self.root / "experiments/tiny" / file
        before = path.read_text()
        assert before.count(old) == 1, before
        path.write_text(before.replace(old, new))

    def run(self, typed: str, code: int = 0, **options: object) -> tuple[str, str]:
        """What the command prints on stdout and stderr, once it has ended with this exit code."""
        process = self.start(typed, **options)
        out, err = process.communicate(timeout=200)
        assert process.returncode == code, out + err
        return out, err

    def folder(self) -> Path:
        """Where the latest run of the experiment lies."""
        return max((self.root / "runs").glob("tiny-*"), key=lambda path: path.stat().st_mtime)

    def table(self) -> pd.DataFrame:
        """The table of the latest run."""
        return pd.read_csv(self.folder() / "tiny.csv")

    def kept(self) -> dict[int, Path]:
        """The finished cells in the store, by their x."""
        return {json.loads(path.read_text())["parameters"]["x"]: path for path in self.store.glob("*.json")}

    def calls(self) -> Counter:
        """How often each x was measured."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return Counter(int(line.split()[0]) for line in lines)

    def processes(self) -> list[psutil.Process]:
        """Whatever still runs with this project's environment: commands, kernels, workers."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.status() != psutil.STATUS_ZOMBIE and process.environ().get("MARK") == str(
                self.root
            )
        except psutil.Error:
            return False

    def gone(self) -> bool:
        return not self.processes()

    def end(self) -> None:
        """Leave nothing behind, whatever a test did."""
        for process in self.processes():
            process.send_signal(signal.SIGKILL)
        for process in self.started:
            for stream in (process.stdout, process.stderr):
                if stream and not stream.closed:
                    stream.close()
            process.wait()


def wait_until(true: Callable[[], object], within: float = 60) -> None:
    """Wait for a condition; the time is only when to give up."""
    last = time.monotonic() + within
    while not true():
        assert time.monotonic() < last, "this never came true"
        time.sleep(0.02)
