"""How long does a chapter run? `python -m benchmarks.chapters [NAME …]` writes `chapters.csv` beside itself.

Processor seconds on one thread, the kernel's start included: what other programs do at the time adds little.
The map of the book shows them.
"""

import os
import sys
import tempfile
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from experiments.engine import execution
from experiments.engine.notebooks import CHAPTERS

TIMES = Path(__file__).with_name("chapters.csv")


def processor_seconds(path: Path) -> float:
    """What executing a notebook in a kernel of its own takes, by the processes that it started."""
    before = os.times()
    with tempfile.TemporaryDirectory() as aside:
        execution.execute(path, Path(aside) / path.name, {}, {"OMP_NUM_THREADS": "1"})
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    """Measure the named chapters, or all, and keep what was measured of the others."""
    kept = pd.read_csv(TIMES, index_col="chapter")["seconds"].to_dict() if TIMES.exists() else {}
    chapters = [name for name in CHAPTERS if name[0].isdigit()]
    for name in tqdm(sys.argv[1:] or chapters, unit="chapter", disable=None):
        kept[name] = round(processor_seconds(CHAPTERS[name]), 1)
        table = pd.Series({name: kept[name] for name in chapters if name in kept}, name="seconds")
        table.rename_axis("chapter").to_csv(TIMES)


if __name__ == "__main__":
    main()
