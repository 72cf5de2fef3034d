"""The placements share every matrix, differ in the norm's place, and are measured before they are trained."""

import pytest
import torch

from experiments import training
from experiments.ablations import positions, pre_post_norm

SIZE = {"n": 6, "d_model": 16}


def encoder(placement: str, depth: int = 3) -> torch.nn.Module:
    torch.manual_seed(3)
    return pre_post_norm.encoder(placement, depth=depth, **SIZE)


def test_placements_share_every_matrix_but_the_last_norm() -> None:
    pre, post = (encoder(placement).state_dict() for placement in ("pre", "post"))
    assert {*pre} - {*post} == {"norm.weight", "norm.bias"}
    torch.testing.assert_close({name: pre[name] for name in post}, post, rtol=0, atol=0)


def test_post_norm_leaves_normalized_tokens_and_pre_norm_grown_ones() -> None:
    tokens = positions.draw(torch.Generator().manual_seed(0), 4, SIZE["n"])
    for placement, normalized in (("pre", False), ("post", True)):
        model = encoder(placement, depth=8)
        x = model.positions(model.embedding(tokens))
        for block in model.blocks:
            x = block(x)
        size = x.var(-1, unbiased=False).mean().item()
        assert (size == pytest.approx(1, rel=1e-3)) == normalized


def test_gradients_are_those_of_the_ends() -> None:
    models = training.Seeds(lambda: encoder("post"), [3, 4])
    tokens = next(training.batches(lambda source: positions.draw(source, 4, SIZE["n"]), [3, 4]))
    first, last = pre_post_norm.first_gradients(models, tokens)
    for place in range(2):
        model = models[place]
        positions.loss(model, tokens[place], task="reversal").backward()
        for block, found in ((model.blocks[0], first), (model.blocks[-1], last)):
            norm = block.feed_forward.output.weight.grad.norm()
            assert norm.item() == pytest.approx(found[place].item(), rel=1e-4)


def test_warm_up_is_the_only_difference_between_the_arms_that_name_it() -> None:
    arm = {"placement": "post", "depth": 2, "learning_rates": [0.01], "seeds": [4], "batch_size": 2, **SIZE}
    one_step = [pre_post_norm.measure(warm_up=w, steps=1, **arm)[0] for w in (1, 50)]
    assert one_step[0]["loss"] == one_step[1]["loss"], "the first loss comes before the first step"
    two_steps = [pre_post_norm.measure(warm_up=w, steps=2, **arm)[0] for w in (1, 50, 50)]
    assert two_steps[0]["loss"] != two_steps[1]["loss"]
    assert two_steps[1] == two_steps[2]
