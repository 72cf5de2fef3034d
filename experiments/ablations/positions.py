"""What is lost without order?

The same encoder is told in six ways, or not at all, where its tokens stand.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from selfattn.nn import (
    Alibi,
    Block,
    FeedForward,
    Learned,
    MultiHeadAttention,
    RelativeBias,
    Rotary,
    Sinusoidal,
    Transformer,
)

from .. import sweep

VOCABULARY, LAYERS, HEADS = 16, 2, 4
NO_ANSWER = -100  # what cross_entropy skips


def reversal(tokens: Tensor) -> Tensor:
    """The answer at place i is the token at n − 1 − i.

    To find it, a token must know its own place.

    >>> reversal(torch.tensor([5, 6, 7])).tolist()
    [7, 6, 5]
    """
    return tokens.flip(-1)


def previous(tokens: Tensor) -> Tensor:
    """The answer at place i is the token at i − 1, none at the first.

    A distance and a direction suffice.

    >>> previous(torch.tensor([5, 6, 7])).tolist()
    [-100, 5, 6]
    """
    first = torch.full_like(tokens[..., :1], NO_ANSWER)
    return torch.cat([first, tokens[..., :-1]], dim=-1)


TASKS: dict[str, Callable[[Tensor], Tensor]] = {
    "reversal": reversal,
    "previous token": previous,
}
ADDED = {  # to the embeddings
    "learned": Learned,
    "sinusoidal": lambda n, d_model: Sinusoidal(),
}
IN_ATTENTION = {  # one for each layer
    "RoPE": lambda n: Rotary(),
    "ALiBi": lambda n: Alibi(),
    # T5 with a bucket for each distance
    "T5": lambda n: RelativeBias(HEADS, num_buckets=4 * n, max_distance=2 * n),
}
SCHEMES = ("none", *ADDED, *IN_ATTENTION)


def encoder(scheme: str, *, n: int, d_model: int) -> Transformer:
    """A two-layer encoder without a mask.

    All schemes share its matrices: what they add is drawn last.
    """
    order = IN_ATTENTION.get(scheme, lambda n: None)
    blocks = [
        Block(
            MultiHeadAttention(d_model, HEADS, positions=order(n)),
            FeedForward(d_model, 2 * d_model),
        )
        for _ in range(LAYERS)
    ]
    model = Transformer(VOCABULARY, blocks)
    if scheme in ADDED:
        model.positions = ADDED[scheme](n, d_model)
    return model


def draw(source: torch.Generator, size: int, n: int) -> Tensor:
    """Random tokens ``(size, n)``."""
    return torch.randint(VOCABULARY, (size, n), generator=source)


def loss(model: torch.nn.Module, tokens: Tensor, task: str) -> Tensor:
    """Cross-entropy in nats."""
    answers = TASKS[task](tokens)
    logits = model(tokens).flatten(0, -2)
    return F.cross_entropy(logits, answers.flatten(), ignore_index=NO_ANSWER)


def accuracy(model: torch.nn.Module, tokens: Tensor, task: str) -> Tensor:
    """Share of right answers."""
    answers = TASKS[task](tokens)
    return (model(tokens).argmax(-1) == answers).sum() / (answers != NO_ANSWER).sum()


def equivariance_error(model: torch.nn.Module, tokens: Tensor) -> Tensor:
    """How far moving the tokens is from moving the logits alike.

    The largest difference over all logits, in standard deviations of the logits; the
    tokens are moved one place on, the last to the front.
    """
    logits = model(tokens)
    moved = model(tokens.roll(1, -1))
    return (moved - logits.roll(1, -2)).abs().amax() / logits.std()


def measure(
    task: str,
    scheme: str,
    learning_rates: list[float],
    seeds: list[int],
    steps: int,
    batch_size: int,
    n: int,
    d_model: int,
) -> list[dict[str, Any]]:
    """Train one scheme on one task from all `seeds` at all rates: a row a rate and seed.

    `loss` and `curve` are `sweep.measure`'s; `accuracy` and `error`, the
    `equivariance_error`, are those of the trained model on sequences that training never
    sees.
    """
    return sweep.measure(
        partial(encoder, scheme, n=n, d_model=d_model),
        partial(draw, n=n),
        partial(loss, task=task),
        {"accuracy": partial(accuracy, task=task), "error": equivariance_error},
        learning_rates=learning_rates,
        seeds=seeds,
        steps=steps,
        batch_size=batch_size,
    )
