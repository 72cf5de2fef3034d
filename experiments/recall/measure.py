"""Recall of many pairs.

Keys and values in a row, then some of the keys again, each asking for its value.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import selfattn as sa

from ..training import recurrence, sweep

KEYS, VALUES, QUERIES = 32, 32, 4
WINDOW = 8  # tokens that a query of the window arm sees, itself among them


class Batch(NamedTuple):
    """Tokens ``(batch, 2 * pairs + QUERIES)`` and the answers to the last ones.

    The answers are ``(batch, QUERIES)``.
    """

    tokens: Tensor
    answers: Tensor


def draw(source: torch.Generator, size: int, pairs: int) -> Batch:
    """`size` fresh sequences k₁ v₁ k₂ v₂ …: distinct keys, random values.

    Value v is token `KEYS` + v.
    """
    keys = torch.rand(size, KEYS, generator=source).argsort(-1)[:, :pairs]
    values = torch.randint(VALUES, (size, pairs), generator=source)
    asked = torch.rand(size, pairs, generator=source).argsort(-1)[:, :QUERIES]
    facts = torch.stack([keys, values + KEYS], -1).flatten(1)
    return Batch(torch.cat([facts, keys.gather(1, asked)], -1), values.gather(1, asked))


def softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The queries stand last, and see all before them."""
    return sa.attention(q, k, v, mask=sa.causal.shift(k.shape[-2] - q.shape[-2]))


def window(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The queries stand last, and see the `WINDOW` last tokens."""
    mask = sa.sliding_window(WINDOW - 1).shift(k.shape[-2] - q.shape[-2])
    return sa.attention(q, k, v, mask=mask)


def linear(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The queries read the sums over the pairs, not over each other.

    (Katharopoulos et al. 2020.)
    """
    facts = k.shape[-2] - q.shape[-2]
    return sa.linear_attention(q, k[..., :facts, :], v[..., :facts, :])


class Attend(torch.nn.Module):
    """One head between four projections; `mix` says how queries gather."""

    def __init__(
        self,
        mix: Callable[[Tensor, Tensor, Tensor], Tensor],
        d_model: int,
    ) -> None:
        super().__init__()
        self.mix = mix
        self.parts = sa.nn.MultiHeadAttention(d_model, 1)

    def forward(self, x: Tensor) -> Tensor:
        """What the last `QUERIES` tokens gather, ``(batch, QUERIES, d_model)``."""
        parts = self.parts
        q = parts.query(x[:, -QUERIES:])
        return parts.output(self.mix(q, parts.key(x), parts.value(x)))


class Recur(torch.nn.Module):
    """An LSTM over all tokens, with a state as wide as the model.

    It has twice attention's parameters.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.cell = torch.nn.LSTMCell(d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """The state after each of the last tokens, ``(batch, QUERIES, d_model)``."""
        return recurrence.states(self.cell, x)[:, -QUERIES:]


ARMS: dict[str, Callable[[int], torch.nn.Module]] = {  # given d_model
    "softmax": partial(Attend, softmax),
    "linear": partial(Attend, linear),
    "window": partial(Attend, window),
    "LSTM": Recur,
}


class Recall(torch.nn.Module):
    """Tokens that know the one before them, and an arm that joins them.

    A feed-forward map and a readout follow.
    """

    def __init__(self, arm: str, d_model: int) -> None:
        super().__init__()
        self.token = torch.nn.Embedding(KEYS + VALUES, d_model)
        self.previous = torch.nn.Embedding(KEYS + VALUES, d_model)
        self.norms = torch.nn.ModuleList([torch.nn.LayerNorm(d_model) for _ in range(3)])
        self.feed_forward = sa.nn.FeedForward(d_model, 2 * d_model)
        self.readout = torch.nn.Linear(d_model, VALUES)
        self.join = ARMS[arm](d_model)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the answers, ``(batch, QUERIES, VALUES)``."""
        x = self.token(tokens) + F.pad(self.previous(tokens[:, :-1]), (0, 0, 1, 0))
        x = x[:, -QUERIES:] + self.join(self.norms[0](x))
        return self.readout(self.norms[2](x + self.feed_forward(self.norms[1](x))))


def loss(model: torch.nn.Module, given: Batch) -> Tensor:
    """Cross-entropy in nats."""
    return F.cross_entropy(model(given.tokens).flatten(0, 1), given.answers.flatten())


def accuracy(model: torch.nn.Module, given: Batch) -> Tensor:
    """Share of right answers."""
    return (model(given.tokens).argmax(-1) == given.answers).float().mean()


TRAINED = ("train",)  # whose numbers agree within their arm's range


def train(
    arm: str,
    pairs: int,
    d_model: int,
    **options: Any,
) -> list[dict[str, Any]]:
    """Train one arm from all seeds at all rates at once: see `sweep.measure`.

    `accuracy` is that on 256 unseen sequences.
    """
    make, task = partial(Recall, arm, d_model), partial(draw, pairs=pairs)
    after = {"accuracy": accuracy}
    return sweep.measure(make, task, loss, after, examples=256, **options)
