"""How long does the whole suite take, from nothing? `python -m benchmarks.suite [smoke] [default]`.

Beside it stands what the same grids would take one notebook after another, one seed after another: the
seconds of all cells, each measure's times how much longer its typical cell takes when every seed and learning
rate trains in a loop of its own. That is found on one seed of that cell and multiplied by their number.
"""

import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import groupby, islice, product
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from experiments.engine.machine import processor
from experiments.engine.sources import ROOT

SEVERAL = {"seeds", "learning_rates"}  # parameters whose values a measure trains together


def suite(profile: str, folder: Path) -> float:
    """Seconds of one command that runs every experiment; its cells stay in `folder`."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "experiments", "run", "--profile", profile]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def seconds(cell: dict[str, Any], parameters: dict[str, Any]) -> float:
    """How long the cell's function takes at these parameters, on one thread."""
    module, _, name = cell["function"].rpartition(".")
    start = time.perf_counter()
    getattr(importlib.import_module(module), name)(**parameters)
    return time.perf_counter() - start


def slowdown(cell: dict[str, Any]) -> float:
    """How many times as long one seed after another takes as all of them together."""
    together = {name: cell["parameters"][name] for name in SEVERAL & cell["parameters"].keys()}
    one_by_one = list(product(*together.values()))
    if len(one_by_one) < 2:
        return 1.0
    alone = [
        seconds(cell, cell["parameters"] | {name: [value] for name, value in zip(together, one, strict=True)})
        for one in islice(one_by_one, 2)
    ]
    return min(alone) * len(one_by_one) / seconds(cell, cell["parameters"])


def loop(cells: list[dict[str, Any]]) -> float:
    """Seconds that the cells would take one after another, and one seed after another."""
    total, by_function = 0.0, lambda cell: cell["function"]
    for function, group in tqdm(groupby(sorted(cells, key=by_function), by_function), disable=None):
        of_one = sorted(group, key=lambda cell: cell["seconds"])
        ratio = slowdown(of_one[len(of_one) // 2])
        total += ratio * sum(cell["seconds"] for cell in of_one)
        print(f"{function}: {len(of_one)} cells, {ratio:.1f} times as long one by one", file=sys.stderr)
    return total


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(f"Machine: {processor()}.\n")
    print("| profile | minutes | cells | their median seconds | one by one, minutes | gain |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for profile in sys.argv[1:] or ["smoke", "default"]:
        with tempfile.TemporaryDirectory(prefix="suite-") as folder:
            wall = suite(profile, Path(folder))
            texts = [path.read_text(encoding="utf-8") for path in Path(folder).glob("runs/cells/*.json")]
        cells = [json.loads(text) for text in texts]
        alone = loop(cells)
        median = statistics.median(cell["seconds"] for cell in cells)
        row = f"{wall / 60:.1f} | {len(cells)} | {median:.1f} | {alone / 60:.0f} | {alone / wall:.1f}"
        print(f"| {profile} | {row} |", flush=True)


if __name__ == "__main__":
    main()
