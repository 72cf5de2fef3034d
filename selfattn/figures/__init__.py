"""Drawings on a given matplotlib `ax`: queries down, keys across, one sequential colour map from 0 to 1."""

from .distributions import bars, score_distribution, weight_distribution
from .grids import gradients, heads, mask, weights
from .listing import source
from .plane import arrows, regions, score_map
from .results import verdicts

__all__ = [
    "arrows",
    "bars",
    "gradients",
    "heads",
    "mask",
    "regions",
    "score_distribution",
    "score_map",
    "source",
    "style",
    "verdicts",
    "weight_distribution",
    "weights",
]

style = {
    "figure.dpi": 160,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
}
"""Settings for `matplotlib.pyplot.rcParams` under which the book's figures are drawn."""
