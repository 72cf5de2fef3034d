"""What is lost without order?

The same encoder is told in five ways, or not at all, where its tokens stand.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from selfattn.nn import Transformer

from ..tasks import order, schemes
from ..training import sweep

SCHEMES = ("none", *schemes.ADDED, *schemes.IN_ATTENTION)


def encoder(scheme: str, *, n: int, d_model: int) -> Transformer:
    """A two-layer encoder without a mask; T5 has a bucket for each distance."""
    return schemes.transformer(
        scheme,
        order.VOCABULARY,
        longest=n,
        d_model=d_model,
        num_buckets=4 * n,
        max_distance=2 * n,
    )


def equivariance_error(model: torch.nn.Module, tokens: Tensor) -> Tensor:
    """How far moving the tokens is from moving the logits alike.

    The largest difference over all logits, in standard deviations of the logits; the
    tokens are moved one place on, the last to the front.
    """
    logits = model(tokens)
    moved = model(tokens.roll(1, -1))
    return (moved - logits.roll(1, -2)).abs().amax() / logits.std()


TRAINED = ("train",)  # whose numbers agree within their arm's range


def train(
    task: str,
    scheme: str,
    n: int,
    d_model: int,
    **options: Any,
) -> list[dict[str, Any]]:
    """Train one scheme on one task from all seeds at all rates: see `sweep.measure`.

    `accuracy` and `error`, the `equivariance_error`, are those of the trained model on
    sequences that training never sees.
    """
    return sweep.measure(
        partial(encoder, scheme, n=n, d_model=d_model),
        partial(order.draw, n=n),
        partial(order.loss, task=task),
        {"accuracy": partial(order.accuracy, task=task), "error": equivariance_error},
        **options,
    )
