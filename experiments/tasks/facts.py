"""Several lookups at once: a task that one head cannot do alone, and one attention layer with many heads.

A memory holds `PAIRS` facts, each a key and a value. One query names R of the keys, each in a role of its
own; the answer is their R values, in the order of the roles. All of them come out of one attention layer.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import selfattn as sa

from ..training import sweep
from .lookup import matrix, normalized

KEYS, VALUES, PAIRS = 12, 8, 8  # distinct keys, distinct values, facts in a memory


class Batch(NamedTuple):
    """The memory's keys and values ``(batch, pairs)``, the asked keys and their values ``(batch, R)``."""

    keys: Tensor
    values: Tensor
    asked: Tensor
    answers: Tensor


def draw(source: torch.Generator, size: int, questions: int) -> Batch:
    """`size` fresh examples: distinct keys in random order, random values, `questions` of the keys asked."""
    keys = torch.rand(size, KEYS, generator=source).argsort(-1)[:, :PAIRS]
    values = torch.randint(VALUES, (size, PAIRS), generator=source)
    places = torch.rand(size, PAIRS, generator=source).argsort(-1)[:, :questions]
    return Batch(keys, values, keys.gather(1, places), values.gather(1, places))


class Facts(torch.nn.Module):
    """One attention layer of `num_heads` heads of width `d_k` between embeddings and a linear readout.

    There is no skip connection: what the heads find is all that the readout gets. With d_k = d_model /
    num_heads the matrices have the same shapes, and a seed draws the same numbers, for any number of heads.
    """

    def __init__(self, questions: int, *, num_heads: int, d_k: int, d_model: int) -> None:
        super().__init__()
        self.questions, self.num_heads = questions, num_heads
        self.key_embedding = torch.nn.Embedding(KEYS, d_model)
        self.value_embedding = torch.nn.Embedding(VALUES, d_model)
        self.asked_embedding = torch.nn.Embedding(questions * KEYS, d_model)  # a key in each of its roles
        self.w_out = matrix(d_model, questions * VALUES)
        self.w_q, self.w_k, self.w_v = (matrix(d_model, num_heads * d_k) for _ in range(3))
        self.w_o = matrix(num_heads * d_k, d_model)

    def found(self, given: Batch) -> Tensor:
        """What each head gathers for the query, ``(batch, num_heads, 1, d_k)``."""
        facts = normalized(self.key_embedding(given.keys) + self.value_embedding(given.values))
        roles = KEYS * torch.arange(self.questions)
        asked = normalized(self.asked_embedding(given.asked + roles).sum(-2, keepdim=True))
        pairs = (asked, self.w_q), (facts, self.w_k), (facts, self.w_v)
        return sa.attention(*(sa.split_heads(x @ w, self.num_heads) for x, w in pairs))

    def read(self, found: Tensor) -> Tensor:
        """Logits of the answers, ``(batch, R, values)``."""
        logits = sa.merge_heads(found) @ self.w_o @ self.w_out  # (batch, 1, R * values)
        return logits.unflatten(-1, (self.questions, VALUES))[:, 0]

    def forward(self, given: Batch) -> Tensor:
        """Logits of the answers, ``(batch, R, values)``."""
        return self.read(self.found(given))


def loss(model: torch.nn.Module, given: Batch) -> Tensor:
    """Cross-entropy in nats, averaged over the answers."""
    return F.cross_entropy(model(given).flatten(0, 1), given.answers.flatten())


def accuracy(model: torch.nn.Module, given: Batch) -> Tensor:
    """Share of right answers."""
    return (model(given).argmax(-1) == given.answers).float().mean()


TRAINED = ("train",)  # whose numbers agree within their arm's range


def train(
    questions: int,
    num_heads: int,
    d_k: int,
    d_model: int,
    **options: Any,
) -> list[dict[str, Any]]:
    """Train one number of heads from all seeds at all rates at once: see `sweep.measure`.

    `accuracy` is the share of right answers on 1024 examples that training never sees.
    """
    make = partial(Facts, questions, num_heads=num_heads, d_k=d_k, d_model=d_model)
    task = partial(draw, questions=questions)
    return sweep.measure(make, task, loss, {"accuracy": accuracy}, **options)
