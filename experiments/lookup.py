"""The lookup task, and the smallest attention model that can solve it.

A memory holds `PAIRS` facts, each a key and a value; a query names one of the keys; the
answer is its value. The model embeds facts and query, attends from the query to the facts
once, and reads the answer off.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import selfattn as sa

from . import training

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
        self.w_v, self.w_o = _matrix(d_model, d_model), _matrix(d_model, d_model)
        self.w_out = _matrix(d_model, VALUES)
        self.w_q, self.w_k = _matrix(d_model, d_k), _matrix(d_model, d_k)

    def forward(self, given: Batch) -> Tensor:
        """Logits of the answer, ``(batch, values)``."""
        keys, values = self.key_embedding(given.keys), self.value_embedding(given.values)
        facts = _normalized(keys + values)
        asked = _normalized(self.query_embedding(given.query)[:, None])
        q, k = self.compare(asked @ self.w_q, facts @ self.w_k)
        found = sa.attention(q, k, facts @ self.w_v, scale=1.0) @ self.w_o
        return (found @ self.w_out)[:, 0]


def _matrix(d_in: int, d_out: int) -> torch.nn.Parameter:
    return torch.nn.Parameter(d_in**-0.5 * torch.randn(d_in, d_out))


def _normalized(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])


def loss(model: torch.nn.Module, given: Batch) -> Tensor:
    """Cross-entropy in nats."""
    return F.cross_entropy(model(given), given.answer)


def accuracy(model: torch.nn.Module, given: Batch) -> Tensor:
    """Share of right answers."""
    return (model(given).argmax(-1) == given.answer).float().mean()


def steps_to(history: Tensor, *, level: float = 0.5, window: int = 10) -> Tensor:
    """First step at which the loss, averaged over `window` steps, is below `level`.

    All steps if never.

    >>> history = torch.tensor([[3.0, 1.0], [2.0, 0.0], [0.4, 0.0], [0.4, 0.0]])
    >>> steps_to(history, window=2).tolist()
    [4, 3]
    """
    below = history.unfold(0, min(window, len(history)), 1).mean(-1) < level
    return torch.where(below.any(0), below.float().argmax(0) + window, len(history))


def measure(
    arm: str,
    d_k: int,
    learning_rate: float,
    seeds: list[int],
    steps: int,
    batch_size: int,
    d_model: int,
) -> list[dict[str, Any]]:
    """Train one arm from all `seeds` at once: one row a seed.

    `gradient` is the norm at W_Q before the first step; `steps_to_half` the step at which
    the loss falls below 0.5 nats; `loss` its mean over all steps; `accuracy` that on 1024
    examples that training never sees; `curve` about twenty losses along the way.
    """
    models = training.Seeds(
        lambda: Lookup(ARMS[arm](d_k), d_model=d_model, d_k=d_k),
        seeds,
    )
    first, unseen = (
        next(training.batches(partial(draw, size=size), [start + seed for seed in seeds]))
        for start, size in ((10**6, 256), (2 * 10**6, 1024))
    )
    (gradient,) = torch.autograd.grad(models(loss, first).sum(), models.parameters["w_q"])
    data = training.batches(partial(draw, size=batch_size), seeds)
    history = training.train(models, loss, data, steps=steps, learning_rate=learning_rate)
    columns = {
        "seed": seeds,
        "gradient": gradient.flatten(1).norm(dim=1).tolist(),
        "steps_to_half": steps_to(history).tolist(),
        "loss": history.mean(0).tolist(),
        "accuracy": models.evaluate(accuracy, unseen).tolist(),
        "curve": history[:: max(1, steps // 20)].T.tolist(),
    }
    rows = zip(*columns.values(), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]
