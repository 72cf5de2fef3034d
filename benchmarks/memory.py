"""How much memory does `flash_attention` hold? `python -m benchmarks.memory` prints Markdown."""

import subprocess
import sys
import threading

import numpy as np
import psutil
import torch
from tqdm import tqdm

import selfattn as sa

LIBRARIES, D_K = {"NumPy": np, "torch": torch}, 64


def peak(library: str, n: int) -> float:
    """MiB that a causal call with one head holds at its peak beyond its arguments, in a new process."""
    code = f"from benchmarks import memory; print(memory.growth({library!r}, {n}))"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)


def growth(library: str, n: int) -> float:
    """By how many MiB this process grows at most during a call of `flash_attention`."""
    xp = LIBRARIES[library]
    x, process, finished = xp.ones((1, n, D_K), dtype=xp.float32), psutil.Process(), threading.Event()
    sa.flash_attention(x[:, :256], x[:, :256], x[:, :256])  # loads what is loaded once
    before = largest = process.memory_info().rss

    def watch() -> None:
        nonlocal largest
        while not finished.wait(0.002):
            largest = max(largest, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    sa.flash_attention(x, x, x, mask=sa.causal)
    finished.set()
    watcher.join()
    return (largest - before) / 2**20


def main() -> None:
    """Print the table."""
    print("| n, one head, causal | NumPy, peak MiB | torch, peak MiB | the scores alone, MiB |")
    print("| --- | --- | --- | --- |")
    for n in tqdm((32768, 65536, 131072), disable=None):
        held = " | ".join(f"{peak(library, n):.0f}" for library in LIBRARIES)
        print(f"| {n} | {held} | {n * n * 4 / 2**20:.0f} |", flush=True)


if __name__ == "__main__":
    main()
