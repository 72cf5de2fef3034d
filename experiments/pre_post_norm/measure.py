"""Why does post-norm need warm-up?

Encoders with the norm before or after the sum, of several depths.
"""

from functools import partial
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from selfattn.nn import (
    Block,
    FeedForward,
    Learned,
    MultiHeadAttention,
    Transformer,
    post_norm,
    pre_norm,
)

from ..tasks import order
from ..training import sweep
from ..training.seeds import Seeds, batches

HEADS = 2
EXAMPLES = 32  # those over which an untrained model's gradients are averaged
TASK = "reversal"
PLACEMENTS = {
    "pre": (pre_norm, torch.nn.LayerNorm),
    "post": (post_norm, torch.nn.Identity),
}


def encoder(placement: str, *, depth: int, n: int, d_model: int) -> Transformer:
    """An encoder for `order.reversal`, with learned positions.

    Both placements share its matrices. After blocks of post-norm there is no last norm:
    the last block ends with one.
    """
    connect, last_norm = PLACEMENTS[placement]
    blocks = [
        Block(
            MultiHeadAttention(d_model, HEADS),
            FeedForward(d_model, 2 * d_model),
            connect=connect,
        )
        for _ in range(depth)
    ]
    learned = Learned(n, d_model)
    return Transformer(order.VOCABULARY, blocks, positions=learned, norm=last_norm)


def first_answer(model: torch.nn.Module, tokens: Tensor) -> Tensor:
    """Cross-entropy of the answer at the first place alone, in nats."""
    return F.cross_entropy(model(tokens)[..., 0, :], order.reversal(tokens)[..., 0])


def last_gradient(models: Seeds, loss: Any, tokens: Tensor) -> Tensor:
    """Norm of the loss's gradient at the last feed-forward layer's output matrix.

    One a seed, ``(seeds,)``.
    """
    *_, last = (name for name in models.parameters if name.endswith("output.weight"))
    (gradient,) = torch.autograd.grad(models(loss, tokens).sum(), models.parameters[last])
    return gradient.flatten(1).norm(dim=1)


def untrained(
    placement: str,
    depth: int,
    seeds: list[int],
    n: int,
    d_model: int,
) -> list[dict[str, Any]]:
    """How large gradients at the last block are before training: one row a seed.

    `one` is the mean of their norms, each of one answer's loss (Xiong et al. 2020,
    theorem 1); `batch` the norm of the mean loss's gradient, over all answers of the same
    examples.
    """
    make = partial(encoder, placement, depth=depth, n=n, d_model=d_model)
    models = Seeds(make, seeds)
    tokens = next(batches(partial(order.draw, size=EXAMPLES, n=n), seeds))
    alone = [last_gradient(models, first_answer, example) for example in tokens.unbind(1)]
    together = last_gradient(models, partial(order.loss, task=TASK), tokens)
    columns = {
        "seed": seeds,
        "one": torch.stack(alone).mean(0).tolist(),
        "batch": together.tolist(),
    }
    return pd.DataFrame(columns).to_dict("records")


TRAINED = ("train",)  # whose numbers agree within their arm's range


def train(
    placement: str,
    depth: int,
    n: int,
    d_model: int,
    **options: Any,
) -> list[dict[str, Any]]:
    """Train one placement at one depth from all seeds at all rates: see `sweep.measure`.

    `accuracy` is that on 1024 sequences that training never sees.
    """
    return sweep.measure(
        partial(encoder, placement, depth=depth, n=n, d_model=d_model),
        partial(order.draw, n=n),
        partial(order.loss, task=TASK),
        {"accuracy": partial(order.accuracy, task=TASK)},
        **options,
    )
