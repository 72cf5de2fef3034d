"""The zoo's correct layer is correct, each bug fails the tests that it should, the task is what it says."""

from math import log

import pytest
import torch

import selfattn as sa
from experiments.bug_zoo import bugs, measure

FAILED = {
    "correct": set(),
    "scale 1/√d_model": {"agreement"},
    "scale 1/√n": {"copies", "agreement"},
    "no scale": {"agreement"},
    "mask after softmax": {"rows", "leak", "agreement"},
    "mask fills −1e-9": {"leak", "agreement"},
    "mask inverted": {"rows", "leak", "agreement"},
    "mask dropped": {"leak", "agreement"},
    "mask one too far": {"leak", "agreement"},
    "softmax over queries": {"rows", "leak", "agreement"},
    "heads not moved back": {"leak", "order", "copies", "agreement"},
    "heads not moved": {"leak", "order", "copies", "agreement"},
    "keys from W_Q": {"matrices", "agreement"},
    "W_Q and W_K swapped": {"agreement"},
    "no W_O": {"matrices", "agreement"},
}


@pytest.mark.parametrize("mask", [None, sa.causal])
def test_the_correct_layer_is_the_librarys(mask: sa.Mask | None) -> None:
    torch.manual_seed(0)
    ours, x = bugs.Correct(8, 2), torch.randn(2, 5, 8)
    theirs = sa.nn.MultiHeadAttention(8, 2)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x, mask=mask), theirs(x, mask=mask))


def test_every_layer_is_expected() -> None:
    assert list(bugs.LAYERS) == list(FAILED)


@pytest.mark.parametrize("bug", FAILED)
def test_each_bug_fails_these_tests(bug: str) -> None:
    for row in measure.passed(bug, [0, 1], 16):
        assert {test for test in measure.TESTS if not row[test]} == FAILED[bug]


@pytest.mark.parametrize("bug", FAILED)
def test_bugs_share_parameters_and_initialization(bug: str) -> None:
    def state(bug: str) -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        return measure.model(bug, 8).state_dict()

    torch.testing.assert_close(state(bug), state("correct"), rtol=0, atol=0)


def test_swapped_matrices_are_another_name_for_the_same_model() -> None:
    torch.manual_seed(0)
    right, wrong, x = bugs.Correct(8, 2), bugs.LAYERS["W_Q and W_K swapped"](8, 2), torch.randn(5, 8)
    state = right.state_dict()
    names = {"query.weight": "key.weight", "key.weight": "query.weight"}
    wrong.load_state_dict({names.get(name, name): tensor for name, tensor in state.items()})
    torch.testing.assert_close(wrong(x, mask=sa.causal), right(x, mask=sa.causal))


def test_sequences_repeat_a_block() -> None:
    tokens = measure.draw(torch.Generator().manual_seed(0), 100)
    assert tokens.shape == (100, measure.LENGTH + 1)
    for row in tokens:
        assert any((row[period:] == row[:-period]).all() for period in measure.PERIODS)


def test_the_floor_of_two_periods(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a: aa… with chance 1/2 + 1/4 (period 1, or 2 by luck), else ab…; the second token tells all."""
    for name, value in {"VOCABULARY": 2, "LENGTH": 3, "PERIODS": (1, 2)}.items():
        monkeypatch.setattr(measure, name, value)
    assert measure.floor() == pytest.approx((0.75 * log(4 / 3) + 0.25 * log(4)) / 3)


@pytest.mark.parametrize("leaky", [False, True])
def test_only_a_leak_makes_the_two_losses_differ(leaky: bool) -> None:
    torch.manual_seed(0)
    model = measure.model("mask dropped" if leaky else "correct", 8)
    tokens = measure.draw(torch.Generator().manual_seed(0), 16)
    with torch.no_grad():
        same = torch.isclose(measure.loss(model, tokens), measure.stepwise(model, tokens))
    assert same == (not leaky)


def test_measures_come_out_the_same_twice() -> None:
    options = {"learning_rates": [0.01], "seeds": [0, 1], "steps": 2, "batch_size": 4}
    first, again = (measure.train("no W_O", 8, **options) for _ in range(2))
    assert first == again
