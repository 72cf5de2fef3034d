"""Drawings on a given matplotlib `ax`: queries down, keys across, one sequential colour map from 0 to 1."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from IPython.display import Markdown

style = {
    "figure.dpi": 160,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
}
"""Settings for `matplotlib.pyplot.rcParams` under which the book's figures are drawn."""


def weights(
    ax: Any,
    weights: Any,
    queries: Sequence[str],
    keys: Sequence[str] | None = None,
    *,
    bar: bool = True,
    numbers: bool | None = None,
    title: str | None = None,
) -> None:
    """Attention weights as a grid of cells, one row a query.

    Shapes: `weights` ``(q_len, kv_len)``, between 0 and 1; `queries` and `keys` are the tokens (the same
    ones when `keys` is left out). `numbers` writes each weight into its cell, by default up to ten keys.

    Raises `ValueError` when the tokens don't fit the weights.

    >>> import matplotlib.pyplot as plt, numpy as np
    >>> weights(plt.figure().gca(), np.eye(2), ["a", "b"])
    """
    grid = np.asarray(weights)
    keys = queries if keys is None else keys
    if grid.shape != (len(queries), len(keys)):
        raise ValueError(
            f"expected weights ({len(queries)}, {len(keys)}) for {len(queries)} queries and {len(keys)} keys"
            f"; got {grid.shape}"
        )
    image = ax.imshow(grid, vmin=0, vmax=1, cmap="Blues", aspect="equal")
    ax.set_xticks(
        range(len(keys)), keys, rotation=90 if len(keys) > 10 else 45, rotation_mode="anchor", ha="right"
    )
    if len(keys) > 10:
        ax.tick_params(axis="x", pad=1)
        for label in ax.get_xticklabels():
            label.set_va("center")
    ax.set_yticks(range(len(queries)), queries)
    ax.set(xlabel="key", ylabel="query", title=title)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    if len(keys) <= 10 if numbers is None else numbers:
        for (row, column), weight in np.ndenumerate(grid):
            colour = "white" if weight > 0.71 else "black"  # contrast of at least 4.5 either way
            ax.text(column, row, f"{weight:.2f}", ha="center", va="center", fontsize=8, color=colour)
    if bar:
        ax.figure.colorbar(image, ax=ax, label="weight", shrink=0.8)


def heads(
    axes: Any, weights_per_head: Any, tokens: Sequence[str], titles: Sequence[str] | None = None
) -> None:
    """One small grid of weights a head, on as many axes.

    Shapes: `weights_per_head` ``(heads, n, n)``; `axes` an array of at least `heads` axes. Axes that are
    left over are switched off.

    Raises `ValueError` when there are fewer axes than heads.

    >>> import matplotlib.pyplot as plt, numpy as np
    >>> heads(plt.figure().subplots(1, 2), np.stack([np.eye(2)] * 2), ["a", "b"])
    """
    axes, grids = np.ravel(axes), np.asarray(weights_per_head)
    if len(axes) < len(grids):
        raise ValueError(f"{len(grids)} heads need as many axes; got {len(axes)}")
    titles = [f"head {head}" for head in range(len(grids))] if titles is None else titles
    for ax, grid, title in zip(axes, grids, titles, strict=False):
        weights(ax, grid, tokens, bar=False, numbers=False, title=title)
        ax.label_outer()
    for ax in axes[len(grids) :]:
        ax.set_axis_off()
    ax.figure.colorbar(axes[0].images[0], ax=axes, label="weight", shrink=0.8)


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


def source(function: Callable[..., Any]) -> Markdown:
    """The source of one of the library's functions without its docstring, for display in a notebook.

    >>> from selfattn import softmax_jacobian
    >>> "identity" in source(softmax_jacobian).data
    True
    """
    code = re.sub(r'\n *r?"""(.|\n)*?"""\n', "\n", inspect.getsource(function), count=1)
    return Markdown(f"```python\n{code}```")
