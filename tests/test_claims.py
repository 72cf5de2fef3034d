"""Intervals and verdicts: closed forms and every branch of the rule."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from experiments.engine import thresholds
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
    ("wanted", "verdict"),
    [
        (("≥", 0.5), "reproduced"),
        (("≥", 1.0), "inconclusive"),
        (("≥", 1.5), "not reproduced"),
        (("≤", 1.5), "reproduced"),
        (("≤", 1.0), "inconclusive"),
        (("≤", 0.5), "not reproduced"),
        (("≈", 1.0, 0.5), "reproduced"),
        (("≈", 1.0, 0.01), "inconclusive"),
        (("≈", 1.35, 0.15), "not reproduced"),
        (("≈", 0.65, 0.15), "not reproduced"),
        (("≈", 1.0), "inconclusive"),
    ],
)
def test_verdict_by_rule(wanted: tuple, verdict: str) -> None:
    assert Claim("c", "…", EIGHT, *wanted).verdict == verdict


@pytest.mark.parametrize(
    ("wanted", "verdict"),
    [
        (("≥", 1.5), "reproduced"),
        (("≥", 2.0), "inconclusive"),
        (("≤", 1.5), "not reproduced"),
        (("≈", 1.0, 2.2), "reproduced"),
        (("≈", 4.0, 2.2), "reproduced"),
        (("≈", 4.0, 1.9), "inconclusive"),
        (("≈", 4.0, 1.7), "not reproduced"),
    ],
)
def test_ratios_are_compared_as_logarithms(wanted: tuple, verdict: str) -> None:
    """Of 1.8 and 1/.45 = 2.22 the geometric mean is 2; twice and a half are equally far from 1."""
    ratios = [1.8, 2 / 0.9] * 4
    assert Claim("c", "…", ratios, *wanted, scale="log10").verdict == verdict
    inverse = {"≥": "≤", "≤": "≥", "≈": "≈"}[wanted[0]]
    turned = Claim("c", "…", [1 / x for x in ratios], inverse, 1 / wanted[1], *wanted[2:], scale="log10")
    assert turned.verdict == verdict


def test_a_row_holds_numbers() -> None:
    row = Claim("c", "…", EIGHT, "≈", 1.0, margin=0.2, source="me").row()
    _, low, high = interval(EIGHT)
    assert (row["effect"], row["low"], row["high"]) == pytest.approx((1.0, low, high), rel=1e-3)
    assert (row["relation"], row["threshold"], row["margin"], row["scale"]) == ("≈", 1.0, 0.2, "linear")
    assert (row["seeds"], row["verdict"], row["source"]) == (8, "reproduced", "me")
    row = Claim("c", "…", [100.0] * 8, "≥", 10.0, scale="log10").row()
    assert (row["effect"], row["threshold"], row["margin"], row["scale"]) == (2.0, 1.0, 0.0, "log10")


@pytest.mark.parametrize(
    ("wanted", "scale", "said"),
    [
        (("≥", -0.5), "linear", "≥ −0.5"),
        (("≤", 2.0), "linear", "≤ 2"),
        (("≈", 1.0, 0.1), "linear", "0.9 … 1.1"),
        (("≈", 0.0, 0.05), "linear", "−0.05 … 0.05"),
        (("≈", 4.0), "linear", "= 4"),
        (("≈", 1.0, 2.0), "log10", "0.5 … 2"),
        (("≤", 1e-3), "log10", "≤ 0.001"),
        (("≤", 1e-5), "log10", "≤ 1e−05"),
        (("≥", 10.0), "log10", "≥ 10"),
    ],
)
def test_thresholds_read_as_a_reader_writes_them(wanted: tuple, scale: str, said: str) -> None:
    assert thresholds.written(Claim("c", "…", [1.0] * 8, *wanted, scale=scale).row()) == said


def test_a_ratio_is_shown_as_one() -> None:
    row = Claim("c", "…", [50.0, 200.0] * 4, "≥", 10.0, scale="log10").row()
    assert table([row]).loc[0, "effect [95 %]"] == "100 [53.83, 185.8]"


def test_too_few_seeds_decide_nothing() -> None:
    assert Claim("c", "…", [5.0] * (FEWEST_SEEDS - 1), "≥", 0.0).verdict == "not tested"
    assert Claim("c", "…", [5.0] * FEWEST_SEEDS, "≥", 0.0).verdict == "reproduced"
    assert table([Claim("c", "…", [], "≥", 0.0).row()]).loc[0, "effect [95 %]"] == "–"
    assert table([Claim("c", "…", [5.0], "≥", 0.0).row()]).loc[0, "effect [95 %]"] == "5"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"relation": ">"}, "≥, ≤ or ≈, linear or log10; got >, linear"),
        ({"scale": "log"}, "got ≥, log"),
        ({"threshold": float("nan")}, "needs a threshold and a margin; got nan, None"),
        ({"threshold": float("inf")}, "needs a threshold"),
        ({"threshold": -1.0, "scale": "log10"}, "needs a threshold and a margin; got -1.0, None"),
        ({"threshold": 0.0, "scale": "log10"}, "needs a threshold"),
        ({"margin": 0.1}, "one side and no margin; got 0.1"),
        ({"relation": "≈", "margin": -0.1}, "and a margin; got 1.0, -0.1"),
        ({"relation": "≈", "margin": 0.5, "scale": "log10"}, "and a margin; got 1.0, 0.5"),
        ({"effects": [float("nan")] * 8}, "no finite number"),
        ({"effects": [1.0] * 7 + [0.0], "scale": "log10"}, "an effect that is no ratio"),
    ],
)
def test_a_claim_that_cannot_be_decided_is_refused(arguments: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Claim("c", "…", **{"effects": EIGHT, "relation": "≥", "threshold": 1.0} | arguments)


def test_record_carries_what_it_shows() -> None:
    bundle = Record([Claim("warm", "Tea is warm.", EIGHT, "≥", 0.5)], cups=pd.DataFrame({"cup": [1]}))
    bundle = bundle._repr_mimebundle_()
    assert "Tea is warm." in bundle["text/html"]
    assert "reproduced" in bundle["text/plain"]
    assert bundle[RECORD]["claims"][0]["id"] == "warm"
    assert bundle[RECORD]["tables"] == {"cups": "cup\n1\n"}
    assert list(table(bundle[RECORD]["claims"])["verdict"]) == ["reproduced"]
