"""The residual is what it is called; the arms of `rank_collapse` differ only in what they are named after."""

import math

import pytest
import torch

from experiments.rank_collapse import measure
from selfattn.nn import MultiHeadAttention, pre_norm

SMALL = {"depth": 3, "batch": 2, "n": 6, "d_model": 8}


@pytest.mark.parametrize("n", [2, 5])
def test_residual_of_orthonormal_tokens(n: int) -> None:
    """The mean of n unit vectors that are orthogonal lies √((n − 1)/n) from each of them."""
    for size in (1.0, 1e-8):
        found = measure.residual(size * torch.eye(n).double())
        assert found.item() == pytest.approx(math.sqrt((n - 1) / n), rel=1e-12)


def test_even_attention_without_skip_collapses_at_once() -> None:
    """Queries of zero make all scores equal: every token becomes the same mean."""
    attention = MultiHeadAttention(8, 2).double()
    torch.nn.init.zeros_(attention.query.weight)
    x = torch.randn(4, 6, 8, dtype=torch.float64)
    alone = measure.without_skip(x, attention, torch.nn.Identity())
    assert measure.residual(alone).max() < 1e-12
    assert measure.residual(pre_norm(x, attention, torch.nn.Identity())).min() > 0.3


def test_arms_share_their_attention_and_differ_as_named() -> None:
    stacks = {}
    for skip in (True, False):
        for feed_forward in (True, False):
            torch.manual_seed(3)
            arm = {"skip": skip, "feed_forward": feed_forward, "norm": "layer norm"}
            stacks[skip, feed_forward] = measure.stack(2, 8, **arm)
    for blocks in stacks.values():
        for block, other in zip(blocks, stacks[True, True], strict=True):
            torch.testing.assert_close(block.attention.state_dict(), other.attention.state_dict())
    for (_, feed_forward), blocks in stacks.items():
        assert all((block.feed_forward is not None) == feed_forward for block in blocks)
    x = torch.randn(2, 6, 8, dtype=torch.float64)
    (joined, *_), (alone, *_) = stacks[True, False], stacks[False, False]
    torch.testing.assert_close(joined(x), x + alone(x))


def test_a_seed_gives_the_same_rows_in_any_company() -> None:
    arm = {"skip": False, "feed_forward": True, "norm": "layer norm", **SMALL}
    together = measure.by_layer(seeds=[4, 5], **arm)
    assert together == [row for seed in (4, 5) for row in measure.by_layer(seeds=[seed], **arm)]
    assert [len(row["residuals"]) for row in together] == [4, 4]
    assert together[0]["residuals"] != together[1]["residuals"]


def test_the_input_is_shared_by_all_arms() -> None:
    first = {
        measure.by_layer(skip=skip, feed_forward=False, norm=norm, seeds=[4], **SMALL)[0]["residuals"][0]
        for skip in (True, False)
        for norm in measure.NORMS
    }
    assert len(first) == 1
