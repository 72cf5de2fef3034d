"""Measured effects beside what was claimed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch


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
