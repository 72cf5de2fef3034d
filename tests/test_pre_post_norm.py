"""The placements share every matrix, differ in the norm's place, and are measured before they are trained."""

from functools import partial

import pytest
import torch

from experiments.pre_post_norm import measure
from experiments.tasks import order
from experiments.training.seeds import batches

SIZE = {"n": 6, "d_model": 16}


def encoder(placement: str, depth: int = 3) -> torch.nn.Module:
    torch.manual_seed(3)
    return measure.encoder(placement, depth=depth, **SIZE)


def test_placements_share_every_matrix_but_the_last_norm() -> None:
    pre, post = (encoder(placement).state_dict() for placement in ("pre", "post"))
    assert {*pre} - {*post} == {"norm.weight", "norm.bias"}
    torch.testing.assert_close({name: pre[name] for name in post}, post, rtol=0, atol=0)


def test_post_norm_leaves_normalized_tokens_and_pre_norm_grown_ones() -> None:
    tokens = order.draw(torch.Generator().manual_seed(0), 4, SIZE["n"])
    for placement, normalized in (("pre", False), ("post", True)):
        model = encoder(placement, depth=8)
        x = model.positions(model.embedding(tokens))
        for block in model.blocks:
            x = block(x)
        size = x.var(-1, unbiased=False).mean().item()
        assert (size == pytest.approx(1, rel=1e-3)) == normalized


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_gradients_are_those_of_the_last_block(placement: str) -> None:
    """By a loop over seeds and examples, each a model of its own and an ordinary backward pass."""
    rows = measure.untrained(placement, depth=2, seeds=[3, 4], **SIZE)
    for row in rows:
        torch.manual_seed(row["seed"])
        model = measure.encoder(placement, depth=2, **SIZE)
        draw = partial(order.draw, size=measure.EXAMPLES, n=SIZE["n"])
        tokens = next(batches(draw, [row["seed"]]))[0]
        last, alone = model.blocks[-1].feed_forward.output.weight, []
        for line in tokens:
            answer = torch.nn.functional.cross_entropy(model(line)[0], line[-1])
            alone.append(torch.autograd.grad(answer, last)[0].norm())
        assert row["one"] == pytest.approx(torch.stack(alone).mean().item(), rel=1e-4)
        together = torch.autograd.grad(order.loss(model, tokens, task="reversal"), last)[0].norm()
        assert row["batch"] == pytest.approx(together.item(), rel=1e-4)


def test_warm_up_is_the_only_difference_between_the_arms_that_name_it() -> None:
    arm = {"placement": "post", "depth": 2, "learning_rates": [0.01], "seeds": [4], "batch_size": 2, **SIZE}
    one_step = [measure.train(warm_up=w, steps=1, **arm)[0] for w in (1, 50)]
    assert one_step[0]["loss"] == one_step[1]["loss"], "the first loss comes before the first step"
    two_steps = [measure.train(warm_up=w, steps=2, **arm)[0] for w in (1, 50, 50)]
    assert two_steps[0]["loss"] != two_steps[1]["loss"]
    assert two_steps[1] == two_steps[2]
