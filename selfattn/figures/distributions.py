"""How many scores and weights there are of each size, and a few of them one by one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


def bars(
    ax: Any, heights: Any, labels: Sequence[str], *, ylabel: str = "weight", title: str | None = None
) -> None:
    """One row of scores or weights as labelled bars, the number above each.

    Shapes: `heights` ``(n,)``, `labels` n strings.

    >>> import matplotlib.pyplot as plt
    >>> bars(plt.figure().gca(), [0.2, 0.8], ["a", "b"])
    """
    container = ax.bar(range(len(labels)), np.asarray(heights), color="#3b75af")
    ax.bar_label(container, fmt="%.2f", fontsize=8, padding=2)
    ax.set_xticks(range(len(labels)), labels, rotation=45, rotation_mode="anchor", ha="right")
    ax.set(ylabel=ylabel, title=title)
    ax.margins(y=0.12)


def score_distribution(ax: Any, scores: Mapping[str, Any]) -> None:
    """How scores spread: the share of each labelled array in each of 40 equal steps, as an outline.

    Shapes: any. Forbidden scores, ``-inf``, have no place on the axis; the legend says what share they are.

    Raises `ValueError` when a score is NaN or ``+inf``.

    >>> import matplotlib.pyplot as plt
    >>> score_distribution(plt.figure().gca(), {"two keys": [0.0, 1.0]})
    """
    _outlines(ax, {label: np.asarray(array) for label, array in scores.items()}, "forbidden")
    ax.set(xlabel="score", ylabel="share of the scores")


def weight_distribution(ax: Any, weights: Mapping[str, Any]) -> None:
    """How weights spread over the powers of ten: each array's share in each of 40 steps of equal ratio.

    Shapes: any. Weights of exactly zero have no place on a logarithmic axis; the legend says what share they
    are.

    Raises `ValueError` when a weight is negative or NaN.

    >>> import matplotlib.pyplot as plt
    >>> weight_distribution(plt.figure().gca(), {"two keys": [0.01, 0.99]})
    """
    arrays = {label: np.asarray(array, dtype=float) for label, array in weights.items()}
    for label, array in arrays.items():
        if not np.all(array >= 0):
            raise ValueError(f"weights are 0 or more; {label!r} has {array[~(array >= 0)][0]}")
    with np.errstate(divide="ignore"):  # the logarithm of a zero is minus infinity, which is left out
        powers = {label: np.log10(array) for label, array in arrays.items()}
    _outlines(ax, powers, "exactly 0", place=lambda edges: 10.0**edges)
    ax.set(xlabel="weight", ylabel="share of the weights", xscale="log")


def _outlines(
    ax: Any, arrays: Mapping[str, np.ndarray], missing: str, place: Callable[[Any], Any] = lambda edges: edges
) -> None:
    """A histogram of shares for each array, all on the same steps; `place` says where a step is drawn."""
    shown = {label: array[~np.isneginf(array)] for label, array in arrays.items()}
    edges = np.histogram_bin_edges(np.concatenate(list(shown.values())), 40)
    for index, (label, array) in enumerate(arrays.items()):
        left_out = 1 - shown[label].size / array.size
        ax.stairs(
            np.histogram(shown[label], edges)[0] / array.size,
            place(edges),
            label=f"{label} ({left_out:.0%} {missing})" if left_out else label,
            linestyle=["-", "--", ":", "-."][index % 4],
            color=f"C{index}",
            lw=1.8,
        )
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False)  # above: outlines may be anywhere
