"""Intervals and verdicts: closed forms and every branch of the rule."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from experiments.engine.claims import FEWEST_SEEDS, RECORD, Claim, Record, interval, table

EIGHT = [0.9, 1.1] * 4  # mean 1, 95 % interval about ± 0.09


def test_interval_is_students() -> None:
    values = np.random.default_rng(0).normal(size=11)
    mean, low, high = interval(values)
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx(stats.ttest_1samp(values, 0).confidence_interval(0.95))


def test_interval_covers_the_truth_in_about_95_of_100_samples() -> None:
    rng = np.random.default_rng(1)
    ends = [interval(rng.normal(3.0, 2.0, size=8))[1:] for _ in range(2000)]
    assert 0.935 < np.mean([low <= 3.0 <= high for low, high in ends]) < 0.965


@pytest.mark.parametrize(
    ("bounds", "verdict"),
    [
        ({"at_least": 0.5}, "reproduced"),
        ({"at_least": 1.0}, "inconclusive"),
        ({"at_least": 1.5}, "not reproduced"),
        ({"at_most": 1.5}, "reproduced"),
        ({"at_most": 1.0}, "inconclusive"),
        ({"at_most": 0.5}, "not reproduced"),
        ({"at_least": 0.5, "at_most": 1.5}, "reproduced"),
        ({"at_least": 0.99, "at_most": 1.01}, "inconclusive"),
        ({"at_least": 1.2, "at_most": 1.5}, "not reproduced"),
    ],
)
def test_verdict_by_rule(bounds: dict[str, float], verdict: str) -> None:
    assert Claim("c", "…", EIGHT, **bounds).verdict == verdict


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ({"at_least": -0.5}, "≥ −0.5"),
        ({"at_most": 2.0}, "≤ 2"),
        ({"at_least": 0.9, "at_most": 1.1}, "0.9 … 1.1"),
    ],
)
def test_thresholds_read_as_a_reader_writes_them(bounds: dict[str, float], said: str) -> None:
    assert Claim("c", "…", EIGHT, **bounds).threshold == said


def test_too_few_seeds_decide_nothing() -> None:
    assert Claim("c", "…", [5.0] * (FEWEST_SEEDS - 1), at_least=0.0).verdict == "not tested"
    assert Claim("c", "…", [5.0] * FEWEST_SEEDS, at_least=0.0).verdict == "reproduced"
    assert Claim("c", "…", [], at_least=0.0).row()["effect"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"effects": EIGHT}, "needs a threshold"),
        ({"effects": EIGHT, "at_least": 2.0, "at_most": 1.0}, "needs a threshold"),
        ({"effects": [float("nan")] * 8, "at_least": 0.0}, "no finite number"),
    ],
)
def test_a_claim_that_cannot_be_decided_is_refused(arguments: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Claim("c", "…", **arguments)


def test_record_carries_what_it_shows() -> None:
    bundle = Record([Claim("warm", "Tea is warm.", EIGHT, at_least=0.5)], cups=pd.DataFrame({"cup": [1]}))
    bundle = bundle._repr_mimebundle_()
    assert "Tea is warm." in bundle["text/html"]
    assert "reproduced" in bundle["text/plain"]
    assert bundle[RECORD]["claims"][0]["id"] == "warm"
    assert bundle[RECORD]["tables"] == {"cups": "cup\n1\n"}
    assert list(table(bundle[RECORD]["claims"])["verdict"]) == ["reproduced"]
