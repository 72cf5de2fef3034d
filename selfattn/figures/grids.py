"""Queries down, keys across: weights, masks and gradients as grids of cells."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ..mask import Mask


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
