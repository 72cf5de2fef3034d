"""Why does post-norm need warm-up? Deep encoders with the norm before or after the sum, with and without."""

from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from selfattn.nn import Block, FeedForward, Learned, MultiHeadAttention, Transformer, post_norm, pre_norm

from .. import sweep, training
from . import positions

HEADS = 2
TASK = "reversal"
PLACEMENTS = {"pre": (pre_norm, torch.nn.LayerNorm), "post": (post_norm, torch.nn.Identity)}


def encoder(placement: str, *, depth: int, n: int, d_model: int) -> Transformer:
    """An encoder for `positions.reversal`, with learned positions. Both placements share its matrices.

    After blocks of post-norm there is no last norm: the last block ends with one.
    """
    connect, last_norm = PLACEMENTS[placement]
    blocks = [
        Block(MultiHeadAttention(d_model, HEADS), FeedForward(d_model, 2 * d_model), connect=connect)
        for _ in range(depth)
    ]
    return Transformer(positions.VOCABULARY, blocks, positions=Learned(n, d_model), norm=last_norm)


def first_gradients(models: training.Seeds, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Norms of the gradient at the first and the last feed-forward layer's output matrix, ``(seeds,)``."""
    names = [name for name in models.parameters if name.endswith("feed_forward.output.weight")]
    losses = models(partial(positions.loss, task=TASK), tokens)
    ends = [models.parameters[name] for name in (names[0], names[-1])]
    first, last = (gradient.flatten(1).norm(dim=1) for gradient in torch.autograd.grad(losses.sum(), ends))
    return first, last


def measure(
    placement: str,
    depth: int,
    warm_up: int,
    learning_rates: list[float],
    seeds: list[int],
    steps: int,
    batch_size: int,
    n: int,
    d_model: int,
) -> list[dict[str, Any]]:
    """Train one placement at one depth from all `seeds` at all rates: one row a rate and seed.

    `loss` is the mean over all steps; `accuracy` that on 1024 sequences that training never sees;
    `first_gradient` and `last_gradient` are the norms of `first_gradients` before the first step.
    """
    rates, again = zip(*[(rate, seed) for rate in learning_rates for seed in seeds], strict=True)
    models = training.Seeds(partial(encoder, placement, depth=depth, n=n, d_model=d_model), again)
    draw = partial(positions.draw, n=n)
    unseen = sweep.unseen(draw, again)
    first, last = first_gradients(models, unseen[:, :128])
    history = training.train(
        models,
        partial(positions.loss, task=TASK),
        training.batches(partial(draw, size=batch_size), again),
        steps=steps,
        learning_rate=rates,
        warm_up=warm_up,
    )
    columns = {
        "learning_rate": rates,
        "seed": again,
        "loss": history.mean(0).tolist(),
        "accuracy": models.evaluate(partial(positions.accuracy, task=TASK), unseen).tolist(),
        "first_gradient": first.tolist(),
        "last_gradient": last.tolist(),
    }
    return pd.DataFrame(columns).to_dict("records")
