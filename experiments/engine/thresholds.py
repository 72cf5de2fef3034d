"""What a claim asks of an effect: as two ends, and as a reader writes it."""

import math
from typing import Any


def bounds(relation: str, threshold: float, margin: float) -> tuple[float, float]:
    """Between which ends an effect must lie that is `≥` or `≤` the threshold, or `≈` it, up to a margin.

    >>> bounds("≥", 0.4, 0.0), bounds("≈", 0.0, 0.05)
    ((0.4, inf), (-0.05, 0.05))
    """
    return {
        "≥": (threshold, math.inf),
        "≤": (-math.inf, threshold),
        "≈": (threshold - margin, threshold + margin),
    }[relation]


def number(row: dict[str, Any], value: float) -> str:
    """A number of a claim's row as a reader writes it: a logarithm as the ratio that it stands for."""
    return f"{10**value:.4g}" if row["scale"] == "log10" else f"{value:g}"


def written(row: dict[str, Any]) -> str:
    """The threshold of a claim's row as a reader writes it.

    >>> written({"relation": "≥", "threshold": -0.5, "margin": 0.0, "scale": "linear"})
    '≥ −0.5'
    >>> written({"relation": "≈", "threshold": 0.0, "margin": math.log10(2), "scale": "log10"})
    '0.5 … 2'
    """
    low, high = row["threshold"] - row["margin"], row["threshold"] + row["margin"]
    if low < high:
        said = f"{number(row, low)} … {number(row, high)}"
    else:
        said = f"{row['relation'].replace('≈', '=')} {number(row, low)}"
    return said.replace("-", "−")
