"""Vectors of two numbers where they are in the plane."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


def arrows(ax: Any, vectors: Any, labels: Sequence[str]) -> None:
    """Vectors in the plane as arrows from the origin, each with its label at the tip.

    Shapes: `vectors` ``(n, 2)``, `labels` n strings.

    >>> import matplotlib.pyplot as plt
    >>> arrows(plt.figure().gca(), [[1.0, 2.0]], ["a"])
    """
    points = np.asarray(vectors, dtype=float)
    reach = 1.25 * np.abs(points).max()
    for index, ((x, y), label) in enumerate(zip(points, labels, strict=True)):
        ax.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "->", "color": f"C{index}", "lw": 1.8})
        ax.annotate(label, (x, y), textcoords="offset points", xytext=(4, 4), color=f"C{index}")
    ax.axhline(0, color="0.8", lw=0.8, zorder=0)
    ax.axvline(0, color="0.8", lw=0.8, zorder=0)
    ax.set(
        aspect="equal",
        xlim=(min(0, points[:, 0].min()) - 0.3, reach),
        ylim=(min(0, points[:, 1].min()) - 0.3, reach),
    )


def score_map(
    ax: Any,
    score: Callable[[Any, Any], Any],
    query: Any,
    keys: Any,
    labels: Sequence[str],
    *,
    title: str | None = None,
) -> None:
    """Level lines of a score over the plane of all keys, for one query; on a darker ground keys score higher.

    Shapes: `query` ``(2,)``, an arrow; `keys` ``(n, 2)``, dots with their `labels` and scores; `score` takes
    queries ``(1, 2)`` and keys ``(m, 2)`` and returns ``(1, m)``.

    >>> import matplotlib.pyplot as plt, numpy as np
    >>> score_map(plt.figure().gca(), lambda q, k: q @ k.T, np.ones(2), np.eye(2), ["a", "b"])
    """
    query, keys = np.asarray(query, dtype=float)[None], np.asarray(keys, dtype=float)
    low, high = np.minimum(keys.min(axis=0), 0) - 1.0, keys.max(axis=0) + 1.5
    plane = np.meshgrid(np.linspace(low[0], high[0], 160), np.linspace(low[1], high[1], 160))
    heights = score(query, np.stack(plane, axis=-1).reshape(-1, 2)).reshape(160, 160)
    ax.contourf(*plane, heights, levels=9, cmap="Blues", alpha=0.6)
    ax.contour(*plane, heights, levels=9, colors="0.35", linewidths=0.6, linestyles="solid")
    ax.annotate("", query[0], (0, 0), arrowprops={"arrowstyle": "->", "lw": 1.8})
    ax.plot(*keys.T, "o", color="#a3330b")
    for point, label, value in zip(keys, labels, score(query, keys)[0], strict=True):
        ax.annotate(f"{label} {value:.2f}", point, textcoords="offset points", xytext=(-8, 7), weight="bold")
    ax.set(aspect="equal", title=title)


def regions(ax: Any, areas: Mapping[str, Any], points: Any, labels: Sequence[str]) -> None:
    """Areas of the plane, each an outline with its name in the legend, and labelled dots on top.

    Shapes: each area ``(corners, 2)``, in order around it; `points` ``(n, 2)``, `labels` n strings.

    >>> import matplotlib.pyplot as plt
    >>> regions(plt.figure().gca(), {"half a square": [[0, 0], [1, 0], [0, 1]]}, [[0.2, 0.2]], ["a"])
    """
    for index, (name, corners) in enumerate(areas.items()):
        look = {"facecolor": f"C{index}", "edgecolor": f"C{index}", "hatch": [None, "//"][index % 2]}
        ax.fill(*np.asarray(corners, dtype=float).T, **look, alpha=0.3, lw=1.8, label=name)
    for point, label in zip(np.asarray(points, dtype=float), labels, strict=True):
        ax.plot(*point, "o", color="black", markersize=5)
        ax.annotate(label, point, textcoords="offset points", xytext=(6, 6), weight="bold")
    ax.set(aspect="equal")
    ax.legend(loc="center left", bbox_to_anchor=(1.12, 0.7), frameon=False)
