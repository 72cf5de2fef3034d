"""The lookup task, and the smallest attention model that can solve it.

A memory holds `PAIRS` facts, each a key and a value; a query names one of the keys; the
answer is its value. The model embeds facts and query, attends from the query to the facts
once, and reads the answer off.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import selfattn as sa

KEYS, VALUES, PAIRS = 32, 16, 16  # distinct keys, distinct values, facts in a memory


class Batch(NamedTuple):
    """Keys and values in memory ``(batch, pairs)``, a query, its answer ``(batch,)``."""

    keys: Tensor
    values: Tensor
    query: Tensor
    answer: Tensor


def draw(source: torch.Generator, size: int) -> Batch:
    """`size` fresh examples: distinct keys in random order, random values.

    One of the keys is the query.
    """
    keys = torch.rand(size, KEYS, generator=source).argsort(-1)[:, :PAIRS]
    values = torch.randint(VALUES, (size, PAIRS), generator=source)
    place = torch.randint(PAIRS, (size, 1), generator=source)
    return Batch(keys, values, keys.gather(1, place)[:, 0], values.gather(1, place)[:, 0])


class Scaled(torch.nn.Module):
    """Queries times a fixed factor: the scale of the scores."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys whose dot products are the scores."""
        return q * self.factor, k


class Normalized(torch.nn.Module):
    """Queries and keys of length one, and a learned factor on their products.

    (Henry et al. 2020.)
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(factor))

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys whose dot products are the scores."""
        return self.factor * F.normalize(q, dim=-1), F.normalize(k, dim=-1)


ARMS: dict[str, Callable[[int], torch.nn.Module]] = {  # given d_k
    "none": lambda d_k: Scaled(1.0),
    "1/√d_k": lambda d_k: Scaled(d_k**-0.5),
    "1/d_k": lambda d_k: Scaled(1 / d_k),
    "QK-norm": lambda d_k: Normalized(d_k**0.5),
}


class Lookup(torch.nn.Module):
    """One attention layer between embeddings of variance 1 and a readout.

    `compare` prepares the scores. Projections have variance 1 / fan-in. The wide ones are
    drawn last, so that models of different `d_k` share the rest of their initialization.
    """

    def __init__(self, compare: torch.nn.Module, *, d_model: int, d_k: int) -> None:
        super().__init__()
        self.compare = compare
        self.key_embedding = torch.nn.Embedding(KEYS, d_model)
        self.value_embedding = torch.nn.Embedding(VALUES, d_model)
        self.query_embedding = torch.nn.Embedding(KEYS, d_model)
        self.w_v, self.w_o = matrix(d_model, d_model), matrix(d_model, d_model)
        self.w_out = matrix(d_model, VALUES)
        self.w_q, self.w_k = matrix(d_model, d_k), matrix(d_model, d_k)

    def forward(self, given: Batch) -> Tensor:
        """Logits of the answer, ``(batch, values)``."""
        keys, values = self.key_embedding(given.keys), self.value_embedding(given.values)
        facts = normalized(keys + values)
        asked = normalized(self.query_embedding(given.query)[:, None])
        q, k = self.compare(asked @ self.w_q, facts @ self.w_k)
        found = sa.attention(q, k, facts @ self.w_v, scale=1.0) @ self.w_o
        return (found @ self.w_out)[:, 0]


def matrix(d_in: int, d_out: int) -> torch.nn.Parameter:
    """Normal numbers of variance 1 / fan-in."""
    return torch.nn.Parameter(d_in**-0.5 * torch.randn(d_in, d_out))


def normalized(x: Tensor) -> Tensor:
    """Layer norm without parameters."""
    return F.layer_norm(x, x.shape[-1:])


def loss(model: torch.nn.Module, given: Batch) -> Tensor:
    """Cross-entropy in nats."""
    return F.cross_entropy(model(given), given.answer)


def accuracy(model: torch.nn.Module, given: Batch) -> Tensor:
    """Share of right answers."""
    return (model(given).argmax(-1) == given.answer).float().mean()
