"""Drawings on a given matplotlib `ax`: queries down, keys across, one sequential colour map from 0 to 1."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from IPython.display import Markdown
from matplotlib.colors import ListedColormap
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from .masks import Mask

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
    _queries_down_keys_across(ax, queries, keys)
    ax.set_title(title)
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


def mask(
    ax: Any,
    mask: Any,
    queries: Sequence[str] | int,
    keys: Sequence[str] | int | None = None,
    *,
    title: str | None = None,
) -> None:
    """Who may look at whom: dark cells are allowed, pale ones forbidden; a figure has one legend for all.

    Shapes: `mask` a `Mask`, or a boolean array ``(q_len, kv_len)`` in which True means may attend; `queries`
    and `keys` are the tokens, or how many there are (as many keys as queries when `keys` is left out).

    Raises `TypeError` when the mask isn't boolean, `ValueError` when it doesn't fit queries and keys.

    >>> import matplotlib.pyplot as plt
    >>> from selfattn import causal
    >>> mask(plt.figure(layout="constrained").gca(), causal, ["a", "b"])
    """
    keys = queries if keys is None else keys
    shape = tuple(tokens if isinstance(tokens, int) else len(tokens) for tokens in (queries, keys))
    grid = mask.dense(*shape) if isinstance(mask, Mask) else np.asarray(mask)
    if grid.dtype != bool:
        raise TypeError(f"expected a Mask or a boolean array (True = may attend); got {grid.dtype}")
    if grid.shape != shape:
        raise ValueError(
            f"expected a mask {shape} for {shape[0]} queries and {shape[1]} keys; got {grid.shape}"
        )
    pale, dark = colours = "#ececec", "#2b659e"  # far apart in grey too
    ax.imshow(grid, vmin=0, vmax=1, cmap=ListedColormap(colours), aspect="equal")
    _queries_down_keys_across(ax, queries, keys)
    ax.set_title(title)
    if max(shape) <= 32:  # lines between the cells
        ax.set_xticks(np.arange(shape[1] + 1) - 0.5, minor=True)
        ax.set_yticks(np.arange(shape[0] + 1) - 0.5, minor=True)
        ax.grid(which="minor", color="white", lw=1)
        ax.tick_params(which="minor", length=0)
    if not ax.figure.legends:
        patches = [Patch(color=dark, label="may attend"), Patch(color=pale, label="may not")]
        ax.figure.legend(handles=patches, loc="outside lower center", ncols=2, frameon=False)


def gradients(
    ax: Any,
    gradients: Any,
    queries: Sequence[str],
    keys: Sequence[str] | None = None,
    *,
    title: str | None = None,
) -> None:
    """Gradients with respect to scores as a grid of cells, brown below zero, green above, pale in between.

    Each number is written with its sign, and an exact zero as a bare 0. Shapes: `gradients`
    ``(q_len, kv_len)``; `queries` and `keys` are the tokens (the same ones when `keys` is left out).

    Raises `ValueError` when the tokens don't fit.

    >>> import matplotlib.pyplot as plt, numpy as np
    >>> gradients(plt.figure().gca(), [[0.25, -0.25], [0.0, 0.0]], ["a", "b"])
    """
    grid = np.asarray(gradients)
    keys = queries if keys is None else keys
    if grid.shape != (len(queries), len(keys)):
        raise ValueError(f"expected gradients ({len(queries)}, {len(keys)}); got {grid.shape}")
    largest = np.abs(grid).max() or 1.0
    ax.imshow(grid, vmin=-largest, vmax=largest, cmap="BrBG", aspect="equal")
    _queries_down_keys_across(ax, queries, keys)
    ax.set_title(title)
    for (row, column), number in np.ndenumerate(grid):
        colour = "black" if -0.695 < number / largest < 0.685 else "white"  # contrast of at least 4.5
        text = f"{number:+.2f}" if number else "0"
        ax.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)


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


def verdicts(ax: Any, labels: Sequence[str], effects: Any, bounds: Any, verdicts: Sequence[str]) -> None:
    """Effects with their intervals, one row each, on scales of their own, over the band where a claim holds.

    Shapes: `labels` and `verdicts` n strings, a verdict one of *reproduced*, *not reproduced* and
    *inconclusive*; `effects` ``(n, 3)``: effect, lower and upper end; `bounds` ``(n, 2)``: the ends of the
    band, of which one may be infinite.

    Raises `KeyError` for another verdict.

    >>> import matplotlib.pyplot as plt, numpy as np
    >>> axes = plt.figure(layout="constrained").gca()
    >>> verdicts(axes, ["warm"], [[40.0, 39.0, 41.0]], [[35.0, np.inf]], ["reproduced"])
    """
    marks = {
        "reproduced": ("o", "#2b659e"),
        "not reproduced": ("X", "#a3330b"),
        "inconclusive": ("D", "white"),
    }
    looks = {
        verdict: {"marker": mark, "markerfacecolor": face, "markersize": 7.5, "markeredgecolor": "black"}
        for verdict, (mark, face) in marks.items()
    }
    for row, (effect, band, verdict) in enumerate(
        zip(np.asarray(effects, dtype=float), np.asarray(bounds, dtype=float), verdicts, strict=True)
    ):
        shown = np.concatenate([effect, band[np.isfinite(band)]])
        room = 0.15 * np.ptp(shown) or 1.0
        start, end = shown.min() - room, shown.max() + room
        (middle, low, high), (left, right) = (
            (np.clip(ends, start, end) - start) / (end - start) for ends in (effect, band)
        )
        ax.barh(row, right - left, left=left, height=0.75, color="#dcdcdc", zorder=0)
        ax.plot([low, high], [row, row], color="0.45", lw=2.5, solid_capstyle="butt")
        ax.plot(middle, row, **looks[verdict])
    ax.set(xlim=(0, 1), ylim=(len(labels) - 0.4, -0.6), xticks=[])
    ax.set_yticks(range(len(labels)), labels, fontsize=8)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    handles = [Line2D([], [], color="0.45", label=name, **looks[name]) for name in marks if name in verdicts]
    handles += [Patch(color="#dcdcdc", label="where the claim holds")]
    ax.figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)


def source(function: Callable[..., Any]) -> Markdown:
    """The source of one of the library's functions without its docstring, for display in a notebook.

    >>> from selfattn import softmax_jacobian
    >>> "identity" in source(softmax_jacobian).data
    True
    """
    code = re.sub(r'\n *r?"""(.|\n)*?"""\n', "\n", inspect.getsource(function), count=1)
    return Markdown(f"```python\n{code}```")


def _queries_down_keys_across(ax: Any, queries: Sequence[str] | int, keys: Sequence[str] | int) -> None:
    """Name the two axes of a grid of cells, and each row and column when there are tokens for them."""
    ax.set(xlabel="key", ylabel="query")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    if isinstance(keys, int):
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    else:
        crowded = len(keys) > 10
        ax.set_xticks(
            range(len(keys)), keys, rotation=90 if crowded else 45, rotation_mode="anchor", ha="right"
        )
        if crowded:
            ax.tick_params(axis="x", pad=1)
            for label in ax.get_xticklabels():
                label.set_va("center")
    if isinstance(queries, int):
        ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    else:
        ax.set_yticks(range(len(queries)), queries)


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
