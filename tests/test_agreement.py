"""What counts as the same result when a cell is computed again, for each kind of function."""

import math

import pytest

from experiments.engine import agreement

TRAINED, TIMED, EXACT = (
    f"experiments.{name}"
    for name in ("tasks.facts.train", "parallelism.measure.clock", "parallelism.measure.count")
)


@pytest.mark.parametrize(
    ("function", "kind"), [(TRAINED, "trained"), (TIMED, "timed"), (EXACT, "deterministic")]
)
def test_a_module_says_of_which_kind_its_functions_are(function: str, kind: str) -> None:
    assert agreement.kind(function) == kind


def one(function: str, new: object, old: object) -> str | None:
    rows, recorded = [{"seed": 1, "value": new}], [{"seed": 1, "value": old}]
    return agreement.difference(function, rows, recorded, [recorded])


@pytest.mark.parametrize(
    ("new", "old", "agree"),
    [
        (2.00019, 2.0, True),
        (2.00021, 2.0, False),
        (1.99979, 2.0, False),
        (-3e-16, 2e-16, True),
        (3, 3, True),
        (4, 3, False),
        (100001, 100000, False),  # counts have no rounding
        (True, False, False),
        ("a", "b", False),
        (None, None, True),
        (math.nan, math.nan, True),
        (math.nan, 1.0, False),
        (math.inf, math.inf, True),
        (-math.inf, math.inf, False),
        (1.0, math.nan, False),
        ([1.0, 2.0], [1.0, 2.0], True),
        ([1.0, 2.0], [1.0, 2.1], False),
        ([1.0], [1.0, 2.0], False),
        ({"a": 1.0}, {"a": 1.1}, False),
    ],
)
def test_deterministic_numbers_differ_by_rounding_alone(new: object, old: object, agree: bool) -> None:
    assert (one(EXACT, new, old) is None) is agree


def test_times_are_positive_and_what_was_timed_is_the_same() -> None:
    assert one(TIMED, 7.0, 0.001) is None
    for wrong in (0.0, -1.0, math.inf, math.nan):
        assert "not a positive number" in one(TIMED, wrong, 1.0)
    assert one(TIMED, 64, 128) is not None


def arm(*values: float) -> list[dict[str, object]]:
    """Rows as a sweep gives them: two rates, three seeds."""
    points = [(rate, seed) for rate in (0.1, 0.2) for seed in (1, 2, 3)]
    return [
        {"rate": rate, "seed": seed, "loss": value, "curve": [value, 0.5], "task": "lookup"}
        for (rate, seed), value in zip(points, values, strict=True)
    ]


RECORDED = arm(1.0, 2.0, 3.0, 10.0, 20.0, 30.0)


@pytest.mark.parametrize(
    ("values", "agree"),
    [
        ((1.0, 2.0, 3.0, 10.0, 20.0, 30.0), True),
        ((3.0, 1.0, 2.0, 30.0, 20.0, 10.0), True),  # anywhere in the range of the same rate
        ((-3.28, 2.0, 7.28, 10.0, 20.0, 30.0), True),  # twice its width farther, and 0.1 of the end
        ((1.0, 2.0, 7.32, 10.0, 20.0, 30.0), False),
        ((-3.32, 2.0, 3.0, 10.0, 20.0, 30.0), False),
        ((10.0, 2.0, 3.0, 1.0, 20.0, 30.0), False),  # the other rate's
        ((math.nan, 2.0, 3.0, 10.0, 20.0, 30.0), False),
    ],
)
def test_trained_numbers_lie_in_their_arms_range(values: tuple[float, ...], agree: bool) -> None:
    assert (agreement.difference(TRAINED, arm(*values), RECORDED, [RECORDED]) is None) is agree


def test_other_cells_of_the_arm_widen_the_range() -> None:
    far = arm(8.0, 2.0, 3.0, 10.0, 20.0, 30.0)
    assert agreement.difference(TRAINED, far, RECORDED, [RECORDED]) is not None
    assert (
        agreement.difference(TRAINED, far, RECORDED, [RECORDED, arm(9.0, 2.0, 3.0, 10.0, 20.0, 30.0)]) is None
    )


def test_what_differs_is_named() -> None:
    said = agreement.difference(TRAINED, arm(1.0, 2.0, 9.0, 10.0, 20.0, 30.0), RECORDED, [RECORDED])
    assert said == "loss = 9.0, not within 1.0 … 3.0, in the row of seed 3, task lookup"
    assert agreement.difference(TRAINED, RECORDED[:5], RECORDED, [RECORDED]) == "5 rows, not 6"
    assert agreement.difference(EXACT, [{"a": 1}], [{"b": 1}], []) == (
        "a row of a 1, not of the recorded seed and columns"
    )


def test_a_curve_counts_by_its_mean() -> None:
    shaken = [row | {"curve": row["curve"][::-1]} for row in RECORDED]
    assert agreement.difference(TRAINED, shaken, RECORDED, [RECORDED]) is None
    risen = [row | {"curve": [30.0, 30.0]} for row in RECORDED]
    said = agreement.difference(TRAINED, risen, RECORDED, [RECORDED])
    assert said.startswith("curve = 30.0, not within 0.75 … 1.75")


def test_trained_rows_have_the_recorded_seeds_and_words() -> None:
    for change in ({"seed": 4}, {"seed": 2}, {"task": "other"}):
        rows = [RECORDED[0] | change, *RECORDED[1:]]
        assert agreement.difference(TRAINED, rows, RECORDED, [RECORDED]) is not None
