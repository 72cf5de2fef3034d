"""The lookup task, and the smallest attention model that can solve it.

A memory holds `pairs` facts, each a key and a value; a query names one of the keys; the answer is its value.
The model embeds facts and query, attends from the query to the facts once, and reads the answer off.
All arrays have a leading axis of seeds (see `experiments.training`).
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import selfattn as sa

from .training import generators, per_seed, train

KEYS, VALUES, PAIRS = 32, 16, 16  # distinct keys, distinct values, facts in a memory
SCALES = {"none": lambda d_k: 1.0, "1/√d_k": lambda d_k: d_k**-0.5, "1/d_k": lambda d_k: 1 / d_k}
ARMS = (*SCALES, "QK-norm")


class Batch(NamedTuple):
    """One batch: the memory's keys and values ``(batch, pairs)``, the query and its answer ``(batch,)``."""

    keys: Tensor
    values: Tensor
    query: Tensor
    answer: Tensor


def draw(source: torch.Generator, size: int) -> Batch:
    """`size` fresh examples: distinct keys in random order, random values, one of the keys as the query."""
    keys = torch.rand(size, KEYS, generator=source).argsort(-1)[:, :PAIRS]
    values = torch.randint(VALUES, (size, PAIRS), generator=source)
    place = torch.randint(PAIRS, (size, 1), generator=source)
    return Batch(keys, values, keys.gather(1, place)[:, 0], values.gather(1, place)[:, 0])


def batch(sources: list[torch.Generator], size: int) -> Batch:
    """`size` examples for each seed, stacked."""
    return Batch(
        *(torch.stack(parts) for parts in zip(*(draw(source, size) for source in sources), strict=True))
    )


def initialize(sources: list[torch.Generator], *, d_model: int, d_k: int) -> dict[str, Tensor]:
    """Fresh parameters per seed: embeddings of variance 1, projections of variance 1 / fan-in.

    The wide projections come last, so that models of different `d_k` share the rest of their initialization.
    """
    shapes = {
        "key_embedding": (KEYS, d_model),
        "value_embedding": (VALUES, d_model),
        "query_embedding": (KEYS, d_model),
        "w_v": (d_model, d_model),
        "w_o": (d_model, d_model),
        "w_out": (d_model, VALUES),
        "w_q": (d_model, d_k),
        "w_k": (d_model, d_k),
    }

    def normal(name: str, shape: tuple[int, int]) -> Tensor:
        spread = 1.0 if name.endswith("embedding") else shape[0] ** -0.5
        return spread * per_seed(lambda source: torch.randn(shape, generator=source), sources)

    return {name: normal(name, shape).requires_grad_() for name, shape in shapes.items()}


def _embed(table: Tensor, indices: Tensor) -> Tensor:
    """Rows of each seed's table: table ``(seeds, n, d)``, indices ``(seeds, ...)`` -> ``(seeds, ..., d)``."""
    first = torch.arange(table.shape[0]).reshape(-1, *[1] * (indices.ndim - 1)) * table.shape[1]
    return F.embedding(indices + first, table.flatten(0, 1))


def predict(p: dict[str, Tensor], given: Batch, *, scale: float = 1.0, qk_norm: bool = False) -> Tensor:
    """Logits of the answer, ``(seeds, batch, values)``.

    With `qk_norm`, queries and keys have length one and a learned factor, initially √d_k, multiplies their
    products (Henry et al. 2020); `scale` is not used then.
    """
    d_model = p["w_q"].shape[-2]
    facts = F.layer_norm(
        _embed(p["key_embedding"], given.keys) + _embed(p["value_embedding"], given.values), (d_model,)
    )
    asked = F.layer_norm(_embed(p["query_embedding"], given.query)[:, :, None], (d_model,))
    q, k, v = asked @ p["w_q"][:, None], facts @ p["w_k"][:, None], facts @ p["w_v"][:, None]
    if qk_norm:
        q, k, scale = p["qk_factor"] * F.normalize(q, dim=-1), F.normalize(k, dim=-1), 1.0
    found = sa.attention(q, k, v, scale=scale) @ p["w_o"][:, None]
    return (found @ p["w_out"][:, None])[:, :, 0]


def losses(logits: Tensor, answer: Tensor) -> Tensor:
    """Cross-entropy of each seed in nats, ``(seeds,)``."""
    return (
        F.cross_entropy(logits.flatten(0, 1), answer.flatten(), reduction="none")
        .unflatten(0, answer.shape)
        .mean(1)
    )


def accuracies(logits: Tensor, answer: Tensor) -> Tensor:
    """Share of right answers of each seed, ``(seeds,)``."""
    return (logits.argmax(-1) == answer).float().mean(1)


def query_gradients(p: dict[str, Tensor], logits: Tensor, answer: Tensor) -> Tensor:
    """Norm of each seed's gradient with respect to W_Q, ``(seeds,)``."""
    return torch.autograd.grad(losses(logits, answer).sum(), p["w_q"])[0].flatten(1).norm(dim=1)


def steps_to(history: Tensor, *, level: float = 0.5, window: int = 10) -> Tensor:
    """First step at which the loss, averaged over `window` steps, is below `level`; all steps if never.

    >>> steps_to(torch.tensor([[3.0, 1.0], [2.0, 0.0], [0.4, 0.0], [0.4, 0.0]]), window=2).tolist()
    [4, 3]
    """
    below = history.unfold(0, min(window, len(history)), 1).mean(-1) < level
    return torch.where(below.any(0), below.float().argmax(0) + window, len(history))


def measure(
    arm: str, d_k: int, learning_rate: float, seeds: list[int], steps: int, batch_size: int, d_model: int
) -> list[dict[str, Any]]:
    """Train one arm from all `seeds` at once: one row a seed.

    `gradient` is the norm at W_Q before the first step; `steps_to_half` the step at which the loss falls
    below 0.5 nats; `loss` its mean over all steps; `accuracy` that on 1024 examples that training never sees;
    `curve` about twenty losses along the way.
    """
    sources = generators(seeds)
    p = initialize(sources, d_model=d_model, d_k=d_k)
    options = {"qk_norm": True} if arm == "QK-norm" else {"scale": SCALES[arm](d_k)}
    if arm == "QK-norm":
        p["qk_factor"] = torch.full((len(seeds), 1, 1, 1), d_k**0.5, requires_grad=True)
    first = batch(generators([10**6 + seed for seed in seeds]), 256)
    gradient = query_gradients(p, predict(p, first, **options), first.answer)

    def loss() -> Tensor:
        given = batch(sources, batch_size)
        return losses(predict(p, given, **options), given.answer)

    history = train(loss, list(p.values()), steps=steps, learning_rate=learning_rate)
    unseen = batch(generators([2 * 10**6 + seed for seed in seeds]), 1024)
    with torch.no_grad():
        accuracy = accuracies(predict(p, unseen, **options), unseen.answer)
    columns = {
        "seed": seeds,
        "gradient": gradient.tolist(),
        "steps_to_half": steps_to(history).tolist(),
        "loss": history.mean(0).tolist(),
        "accuracy": accuracy.tolist(),
        "curve": history[:: max(1, steps // 20)].T.tolist(),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
