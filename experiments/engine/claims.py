"""A claim is a sentence, an effect with a 95 % interval over seeds, a threshold, and a verdict by rule."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from . import thresholds

FEWEST_SEEDS = 8
RECORD = "application/vnd.selfattn.record+json"


def interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    r"""Mean of independent values and the ends of its Student-t interval.

    .. math:: \bar x \pm t_{n-1,\,0.975}\, \frac{s}{\sqrt n}

    (Student 1908.) With fewer than two values the ends are infinitely far away.

    >>> [round(end, 3) for end in interval([1.0, 2.0, 3.0])]
    [2.0, -0.484, 4.484]
    """
    from scipy import stats  # which takes as long to load as a whole command, and most need no interval

    x = np.asarray(values, dtype=float)
    if len(x) < 2:
        return (float(x.mean()) if len(x) else math.nan), -math.inf, math.inf
    half = stats.t.ppf((1 + confidence) / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x))
    return float(x.mean()), float(x.mean() - half), float(x.mean() + half)


@dataclass(frozen=True)
class Claim:
    """A sentence that the effects of single seeds (differences within a pair, or a measure itself) decide.

    The claim says that the effect is `≥` or `≤` the threshold, or `≈` it: no further away than `margin`. The
    whole interval there: *reproduced*. The whole interval elsewhere: *not reproduced*. Else *inconclusive*.
    With fewer than eight seeds there is no verdict: *not tested*.

    On the scale `log10` effects, threshold and margin are ratios. Their logarithms are averaged, compared and
    recorded, so that twice is as far from 1 as a half: `≈ 1` with a margin of 2 is from a half to twice.

    Raises `ValueError` for another relation or scale, a number that isn't finite, or has no logarithm where
    one is needed, and for a margin where the claim has one side only.

    >>> Claim("warm", "Tea is warm.", [40.0, 41.0, 42.0] * 3, "≥", 35.0).verdict
    'reproduced'
    >>> Claim("twice", "Tea takes as long.", [1.1, 1.5] * 4, "≈", 1.0, margin=2.0, scale="log10").verdict
    'reproduced'
    >>> Claim("warm", "Tea is warm.", [40.0], "≥", 35.0).verdict
    'not tested'
    """

    id: str
    sentence: str
    effects: Sequence[float] = field(repr=False)
    relation: str
    threshold: float
    margin: float | None = None
    scale: str = "linear"
    source: str = ""

    def __post_init__(self) -> None:
        if self.relation not in ("≥", "≤", "≈") or self.scale not in ("linear", "log10"):
            raise ValueError(
                f"claim {self.id} is ≥, ≤ or ≈, linear or log10; got {self.relation}, {self.scale}"
            )
        if self.margin is not None and self.relation != "≈":
            raise ValueError(f"claim {self.id} has one side and no margin; got {self.margin}")
        if not all(math.isfinite(x) for x in self._bound()) or self._bound()[1] < 0:
            raise ValueError(
                f"claim {self.id} needs a threshold and a margin; got {self.threshold}, {self.margin}"
            )
        if not np.isfinite(self._scaled(self.effects)).all():
            kind = "no finite number" if self.scale == "linear" else "no ratio"
            raise ValueError(f"claim {self.id} has an effect that is {kind}: {list(self.effects)}")

    def _scaled(self, values: Any) -> np.ndarray:
        """The numbers as they are compared and recorded."""
        x = np.asarray(values, dtype=float)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log10(x) if self.scale == "log10" else x

    def _bound(self) -> tuple[float, float]:
        """Threshold and margin on the claim's scale."""
        margin = 0.0 if self.margin is None else float(self._scaled(self.margin))
        return float(self._scaled(self.threshold)), margin

    @property
    def verdict(self) -> str:
        """What the interval says about the threshold, by the rule above."""
        _, low, high = interval(self._scaled(self.effects))
        least, most = thresholds.bounds(self.relation, *self._bound())
        if len(self.effects) < FEWEST_SEEDS:
            return "not tested"
        if least <= low and high <= most:
            return "reproduced"
        return "not reproduced" if high < least or low > most else "inconclusive"

    def row(self) -> dict[str, Any]:
        """The claim as one row of a table: numbers, on its scale, effects rounded to four digits."""
        effect, low, high = (
            float(f"{end:.4g}") if math.isfinite(end) else None
            for end in interval(self._scaled(self.effects))
        )
        threshold, margin = self._bound()
        return {
            "id": self.id,
            "sentence": self.sentence,
            "effect": effect,
            "low": low,
            "high": high,
            "relation": self.relation,
            "threshold": threshold,
            "margin": margin,
            "scale": self.scale,
            "seeds": len(self.effects),
            "verdict": self.verdict,
            "source": self.source,
        }


def table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Claims as a reader sees them: one row each, the effect with its interval.

    >>> table([Claim("warm", "Tea is warm.", [40.0, 41.0] * 4, "≥", 35.0).row()]).loc[0, "effect [95 %]"]
    '40.5 [40.05, 40.95]'
    """

    def effect(row: dict[str, Any]) -> str:
        effect, low, high = (
            "–" if row[end] is None else thresholds.number(row, row[end]) for end in ("effect", "low", "high")
        )
        return effect if row["low"] is None else f"{effect} [{low}, {high}]"

    shown = [row | {"effect [95 %]": effect(row), "threshold": thresholds.written(row)} for row in rows]
    return pd.DataFrame(shown, columns=["id", "sentence", "effect [95 %]", "threshold", "seeds", "verdict"])


class Record:
    """What a notebook measured: its claims and its tidy tables, shown as a table and carried as data.

    A notebook ends with a record as a cell's value. The record writes nothing itself: it travels as one
    more representation of that cell's output, and the engine takes it from the executed notebook.
    """

    def __init__(self, claims: Sequence[Claim], **tables: pd.DataFrame) -> None:
        self.claims = [claim.row() for claim in claims]
        self.tables = {name: frame.to_csv(index=False, float_format="%.5g") for name, frame in tables.items()}

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        shown = table(self.claims)
        with pd.option_context("display.max_colwidth", None):
            html = shown.to_html(index=False, border=0, classes="claims")
        return {
            "text/html": html,
            "text/plain": shown.to_string(index=False),
            RECORD: {"claims": self.claims, "tables": self.tables},
        }
