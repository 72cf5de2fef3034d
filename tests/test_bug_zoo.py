"""The zoo's correct layer is correct, each bug differs from it, and the task is what it says."""

import pytest
import torch

import selfattn as sa
from experiments.ablations import bug_zoo


def test_the_correct_layer_is_the_librarys() -> None:
    torch.manual_seed(0)
    ours, x = bug_zoo.Correct(8, 2), torch.randn(2, 5, 8)
    theirs = sa.nn.MultiHeadAttention(8, 2)
    theirs.load_state_dict(ours.state_dict())
    for mask in (None, sa.causal):
        torch.testing.assert_close(ours(x, mask=mask), theirs(x, mask=mask))


@pytest.mark.parametrize("bug", bug_zoo.LAYERS)
def test_only_the_correct_layer_passes(bug: str) -> None:
    (row,) = bug_zoo.passed(bug, [0], 16)
    assert all(row[test] for test in bug_zoo.TESTS) == (bug == "correct")


def test_bugs_share_parameters_and_initialization() -> None:
    def state(bug: str) -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        return bug_zoo.model(bug, 8).state_dict()

    for bug in bug_zoo.LAYERS:
        torch.testing.assert_close(state(bug), state("correct"), rtol=0, atol=0)


def test_sequences_repeat_a_block() -> None:
    tokens = bug_zoo.draw(torch.Generator().manual_seed(0), 100)
    assert tokens.shape == (100, bug_zoo.LENGTH + 1)
    for row in tokens:
        assert any((row[period:] == row[:-period]).all() for period in bug_zoo.PERIODS)


def test_measures_come_out_the_same_twice() -> None:
    first, again = (bug_zoo.measure("no W_O", [0.01], [0, 1], 2, 4, 8) for _ in range(2))
    assert first == again
