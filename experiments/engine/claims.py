"""A claim is a sentence, an effect with a 95 % interval over seeds, a threshold, and a verdict by rule."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

FEWEST_SEEDS = 8
RECORD = "application/vnd.selfattn.record+json"


def interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    r"""Mean of independent values and the ends of its Student-t interval.

    .. math:: \bar x \pm t_{n-1,\,0.975}\, \frac{s}{\sqrt n}

    (Student 1908.) With fewer than two values the ends are infinitely far away.

    >>> [round(end, 3) for end in interval([1.0, 2.0, 3.0])]
    [2.0, -0.484, 4.484]
    """
    x = np.asarray(values, dtype=float)
    if len(x) < 2:
        return (float(x.mean()) if len(x) else math.nan), -math.inf, math.inf
    half = stats.t.ppf((1 + confidence) / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x))
    return float(x.mean()), float(x.mean() - half), float(x.mean() + half)


@dataclass(frozen=True)
class Claim:
    """A sentence that the effects of single seeds (differences within a pair, or a measure itself) decide.

    The claim holds for an effect between `at_least` and `at_most`. The whole interval there: *reproduced*.
    The whole interval outside: *not reproduced*. Else *inconclusive*. With fewer than eight seeds there is
    no verdict: *not tested*.

    >>> Claim("warm", "Tea is warm.", [40.0, 41.0, 42.0] * 3, at_least=35.0).verdict
    'reproduced'
    >>> Claim("warm", "Tea is warm.", [40.0], at_least=35.0).verdict
    'not tested'
    """

    id: str
    sentence: str
    effects: Sequence[float] = field(repr=False)
    at_least: float = -math.inf
    at_most: float = math.inf
    source: str = ""

    def __post_init__(self) -> None:
        if not -math.inf < self.at_least <= self.at_most and not self.at_least <= self.at_most < math.inf:
            raise ValueError(
                f"claim {self.id} needs a threshold; got at_least={self.at_least}, at_most={self.at_most}"
            )
        if not np.isfinite(np.asarray(self.effects, dtype=float)).all():
            raise ValueError(f"claim {self.id} has an effect that is no finite number: {list(self.effects)}")

    @property
    def verdict(self) -> str:
        """What the interval says about the threshold, by the rule above."""
        _, low, high = interval(self.effects)
        if len(self.effects) < FEWEST_SEEDS:
            return "not tested"
        if self.at_least <= low and high <= self.at_most:
            return "reproduced"
        if high < self.at_least or low > self.at_most:
            return "not reproduced"
        return "inconclusive"

    @property
    def threshold(self) -> str:
        """The bounds as a reader writes them."""
        low, high = (f"{bound:g}".replace("-", "−") for bound in (self.at_least, self.at_most))
        if self.at_most == math.inf:
            return f"≥ {low}"
        return f"≤ {high}" if self.at_least == -math.inf else f"{low} … {high}"

    def row(self) -> dict[str, Any]:
        """The claim as one row of a table, numbers rounded to four digits."""
        effect, low, high = (
            float(f"{end:.4g}") if math.isfinite(end) else None for end in interval(self.effects)
        )
        return {
            "id": self.id,
            "sentence": self.sentence,
            "effect": effect,
            "low": low,
            "high": high,
            "threshold": self.threshold,
            "seeds": len(self.effects),
            "verdict": self.verdict,
            "source": self.source,
        }


def table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Claims as a reader sees them: one row each, the effect with its interval.

    >>> table([Claim("warm", "Tea is warm.", [40.0, 41.0] * 4, at_least=35.0).row()]).loc[0, "effect [95 %]"]
    '40.5 [40.05, 40.95]'
    """

    def effect(row: dict[str, Any]) -> str:
        if row["low"] is None:
            return "–" if row["effect"] is None else f"{row['effect']:g}"
        return f"{row['effect']:g} [{row['low']:g}, {row['high']:g}]"

    columns = ("sentence", "effect [95 %]", "threshold", "seeds", "verdict")
    return pd.DataFrame([{"id": row["id"]} | row | {"effect [95 %]": effect(row)} for row in rows]).reindex(
        columns=["id", *columns]
    )


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
