"""The arms of the output projection differ by one matrix a layer, and by nothing else."""

import pytest
import torch

from experiments.output_projection import chain, measure
from experiments.tasks import facts


def made(layers: int, arm: str, num_heads: int = 4) -> torch.nn.Module:
    torch.manual_seed(0)
    make = measure.one_layer if layers == 1 else measure.two_layers
    return make(arm, num_heads, 16)


def examples(layers: int) -> tuple:
    source = torch.Generator().manual_seed(0)
    return facts.draw(source, 8, measure.QUESTIONS) if layers == 1 else chain.draw(source, 8)


def logits(layers: int, model: torch.nn.Module) -> torch.Tensor:
    given = examples(layers)
    return model(given) if layers == 1 else model(given.tokens)


@pytest.mark.parametrize("layers", [1, 2])
def test_without_w_o_is_the_identity_in_its_place(layers: int) -> None:
    whole, without = made(layers, "learned"), made(layers, "none")
    assert not torch.allclose(logits(layers, whole), logits(layers, without))
    with torch.no_grad():
        outputs = [whole.w_o] if layers == 1 else [block.attention.output.weight for block in whole.blocks]
        for output in outputs:
            output.copy_(torch.eye(16))
    torch.testing.assert_close(logits(layers, whole), logits(layers, without))


@pytest.mark.parametrize("layers", [1, 2])
def test_a_matrix_a_layer_is_all_that_is_missing(layers: int) -> None:
    whole, without = (dict(made(layers, arm).named_parameters()) for arm in measure.ARMS)
    missing = whole.keys() - without.keys()
    assert [whole[name].shape for name in missing] == [(16, 16)] * layers
    assert all(torch.equal(whole[name], without[name]) for name in without)


def test_rows_are_the_same_twice() -> None:
    options = {"learning_rates": [0.01], "seeds": [0, 1], "steps": 3, "batch_size": 4}
    first, again = (measure.train(2, 2, "none", 16, **options) for _ in range(2))
    assert first == again
