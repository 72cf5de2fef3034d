"""What does W_O add?

To one layer under a linear readout, and to two that share a residual stream.
"""

from functools import partial
from typing import Any

import torch

from selfattn.nn import Transformer

from ..tasks import facts
from ..training import sweep
from . import chain

ARMS = ("learned", "none")
QUESTIONS = 4  # facts that the one layer is asked for at once


def one_layer(arm: str, num_heads: int, d_model: int) -> facts.Facts:
    """The layer of `facts`, with W_O or with the identity in its place."""
    d_k = d_model // num_heads
    model = facts.Facts(QUESTIONS, num_heads=num_heads, d_k=d_k, d_model=d_model)
    if arm == "none":
        del model.w_o
        model.register_buffer("w_o", torch.eye(d_model))
    return model


def two_layers(arm: str, num_heads: int, d_model: int) -> Transformer:
    """The layers of `chain`, with W_O or with the identity in its place."""
    model = chain.model(num_heads, d_model=d_model)
    if arm == "none":
        for block in model.blocks:
            block.attention.output = torch.nn.Identity()
    return model


TRAINED = ("train",)  # whose numbers agree within their arm's range


def train(
    layers: int,
    num_heads: int,
    arm: str,
    d_model: int,
    **options: Any,
) -> list[dict[str, Any]]:
    """Train one arm from all seeds at all rates at once: see `sweep.measure`.

    One layer learns `facts`, two learn the `chain`. `accuracy` is the share of right
    answers on 1024 examples that training never sees.
    """
    if layers == 1:
        arms, draw, task = one_layer, partial(facts.draw, questions=QUESTIONS), facts
    else:
        arms, draw, task = two_layers, chain.draw, chain
    make, after = partial(arms, arm, num_heads, d_model), {"accuracy": task.accuracy}
    return sweep.measure(make, draw, task.loss, after, **options)
