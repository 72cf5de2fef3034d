"""What does attention cost as n grows? `python -m benchmarks.cost` draws `cost.png` beside itself."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

import selfattn as sa
from selfattn import figures

from .attention import seconds, tensors


def costs() -> Iterator[dict[str, Any]]:
    """Seconds of one forward pass against n, all pairs."""
    for n in 2 ** np.arange(7, 15):
        q, k, v = tensors(int(n))
        calls = {
            "flash_attention": lambda q=q, k=k, v=v: sa.flash_attention(q, k, v),
            "linear_attention": lambda q=q, k=k, v=v: sa.linear_attention(q, k, v),
        }
        if n <= 4096:  # its scores fill gigabytes beyond
            calls = {"attention": lambda q=q, k=k, v=v: sa.attention(q, k, v)} | calls
        for name, call in calls.items():
            call()
            yield {"n": n, "function": name, "seconds": min(seconds(call) for _ in range(3))}


def main() -> None:
    """Measure, and draw."""
    plt.rcParams.update(figures.style)
    _, ax = plt.subplots(figsize=(5.5, 3.6))
    functions = {"hue": "function", "style": "function", "markers": True, "dashes": False}
    sns.lineplot(pd.DataFrame(costs()), x="n", y="seconds", **functions, ax=ax)
    ax.set(xscale="log", yscale="log", xlabel="n (tokens)", ylabel="seconds, forward, 4 heads")
    ax.figure.savefig(Path(__file__).parent / "cost.png", dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
