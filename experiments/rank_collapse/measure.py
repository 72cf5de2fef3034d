"""Do the tokens stay different?

Stacks of blocks at initialization, with and without the skip connection.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from selfattn.nn import Block, FeedForward, MultiHeadAttention, pre_norm

from ..training.seeds import batches

HEADS = 4
Function = Callable[[Tensor], Tensor]
NORMS = {"layer norm": torch.nn.LayerNorm, "no norm": torch.nn.Identity}


def without_skip(x: Tensor, part: Function, norm: Function) -> Tensor:
    """A part replaces what it is given: `pre_norm` without the sum."""
    return part(norm(x))


def residual(x: Tensor) -> Tensor:
    r"""How far the tokens ``(..., n, d)`` are from being one and the same.

    It is 0 at rank one, and at most 1.

    .. math::

        \|X - \mathbf{1} \bar x^\top\|_F \,/\, \|X\|_F, \qquad
        \bar x = \text{the mean token}

    (After Dong et al. 2021, section 2, who take another norm.)

    >>> same, opposite = [[1.0, 2.0], [1.0, 2.0]], [[1.0, 2.0], [-1.0, -2.0]]
    >>> residual(torch.tensor([same, opposite]))
    tensor([0., 1.])
    """
    return (x - x.mean(-2, keepdim=True)).norm(dim=(-2, -1)) / x.norm(dim=(-2, -1))


def stack(
    depth: int,
    d_model: int,
    *,
    skip: bool,
    feed_forward: bool,
    norm: str,
) -> list[Block]:
    """The blocks of one arm. Attention is drawn first, so that all arms share it."""
    attentions = [MultiHeadAttention(d_model, HEADS) for _ in range(depth)]
    parts = [FeedForward(d_model) if feed_forward else None for _ in range(depth)]
    options = {"connect": pre_norm if skip else without_skip, "norm": NORMS[norm]}
    pairs = zip(attentions, parts, strict=True)
    return [Block(attention, part, **options).double() for attention, part in pairs]


def residuals(blocks: list[Block], x: Tensor) -> Iterator[float]:
    """The residual of the input, and after each block, averaged over the batch."""
    yield residual(x).mean().item()
    for block in blocks:
        x = block(x)
        yield residual(x).mean().item()


@torch.no_grad()
def by_layer(
    skip: bool,
    feed_forward: bool,
    norm: str,
    seeds: list[int],
    depth: int,
    batch: int,
    n: int,
    d_model: int,
) -> list[dict[str, Any]]:
    """The residual from layer 0, which is the input, to layer `depth`: one row a seed.

    The input is `batch` sequences of `n` independent normal tokens. All arms of a seed
    have the same input and the same attention matrices. In float64, residuals down to
    1e-15 mean something.
    """
    normal = partial(torch.randn, batch, n, d_model)
    inputs = batches(lambda source: normal(generator=source).double(), seeds)
    arm = {"skip": skip, "feed_forward": feed_forward, "norm": norm}
    rows = []
    for seed, x in zip(seeds, next(inputs), strict=True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            blocks = stack(depth, d_model, **arm)
        rows.append({"seed": seed, "residuals": list(residuals(blocks, x))})
    return rows
