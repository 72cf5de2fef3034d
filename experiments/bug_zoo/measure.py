"""Which bugs does a loss curve hide?

Tests of a layer's properties beside its loss, one bug at a time.
"""

from collections import Counter
from functools import partial
from itertools import product
from math import log
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import selfattn as sa

from ..training import sweep
from .bugs import LAYERS, Correct

VOCABULARY, LENGTH, PERIODS, HEADS = 6, 18, (2, 3, 4), 2


def rows_sum_to_one(layer: Correct, x: Tensor) -> bool:
    """The weights of each query sum to one."""
    total = layer.attention_weights(x, mask=sa.causal).sum(-1)
    return torch.allclose(total, torch.ones_like(total))


def nothing_leaks(layer: Correct, x: Tensor) -> bool:
    """Another last token changes no earlier output."""
    other = torch.cat([x[:-1], -x[-1:]])
    before, after = layer(x, mask=sa.causal), layer(other, mask=sa.causal)
    return torch.allclose(before[:-1], after[:-1])


def order_is_free(layer: Correct, x: Tensor) -> bool:
    """Without a mask, tokens in another order give the same outputs in that order."""
    order = torch.randperm(len(x))
    return torch.allclose(layer(x[order]), layer(x)[order])


def copies_add_nothing(layer: Correct, x: Tensor) -> bool:
    """Without a mask, a copy of all tokens changes no output: it is an average."""
    return torch.allclose(layer(torch.cat([x, x]))[: len(x)], layer(x))


def every_matrix_counts(layer: Correct, x: Tensor) -> bool:
    """The output depends on each of the four matrices."""
    parts = layer.query, layer.key, layer.value, layer.output
    matrices = [part.weight for part in parts]
    output = layer(x, mask=sa.causal).square().sum()
    slopes = torch.autograd.grad(output, matrices, allow_unused=True)
    return all(slope is not None and slope.abs().max() > 1e-6 for slope in slopes)


def agrees(layer: Correct, x: Tensor) -> bool:
    """The outputs are those of `torch.nn.MultiheadAttention` with the same matrices."""
    n, theirs = len(x), layer.to_torch()
    forbidden = torch.ones(n, n).triu(1).bool()  # what True means there
    expected, _ = theirs(x, x, x, attn_mask=forbidden)
    return torch.allclose(layer(x, mask=sa.causal), expected)


TESTS = {
    "rows": rows_sum_to_one,
    "leak": nothing_leaks,
    "order": order_is_free,
    "copies": copies_add_nothing,
    "matrices": every_matrix_counts,
    "agreement": agrees,
}


def passed(bug: str, seeds: list[int], d_model: int) -> list[dict[str, Any]]:
    """Which tests a layer with this bug passes: one row a seed.

    Weights and tokens are random.
    """
    rows = []
    for seed in seeds:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layer = LAYERS[bug](d_model, HEADS).double()
            x = torch.randn(LENGTH, d_model, dtype=torch.float64)
            found = {name: test(layer, x) for name, test in TESTS.items()}
            rows.append({"seed": seed} | found)
    return rows


def draw(source: torch.Generator, size: int) -> Tensor:
    """`size` fresh sequences ``(size, LENGTH + 1)``.

    Each is a random block of 2, 3 or 4 tokens, repeated.
    """
    chosen = torch.randint(len(PERIODS), (size, 1), generator=source)
    period = torch.tensor(PERIODS)[chosen]
    block = torch.randint(VOCABULARY, (size, max(PERIODS)), generator=source)
    return block.gather(1, torch.arange(LENGTH + 1) % period)


def floor() -> float:
    """The least loss of any model that sees only the past.

    It is a sequence's entropy given its first token.
    """
    chances: Counter[tuple[int, ...]] = Counter()
    for period in PERIODS:
        chance = 1 / (len(PERIODS) * VOCABULARY**period)
        for block in product(range(VOCABULARY), repeat=period):
            chances[(block * (LENGTH + 1))[: LENGTH + 1]] += chance
    return (-sum(p * log(p) for p in chances.values()) - log(VOCABULARY)) / LENGTH


def model(bug: str, d_model: int) -> torch.nn.Module:
    """A language model of two blocks, both of whose attention layers have the bug."""
    blocks = [
        sa.nn.Block(
            LAYERS[bug](d_model, HEADS),
            sa.nn.FeedForward(d_model, 2 * d_model),
        )
        for _ in range(2)
    ]
    return sa.nn.Transformer(VOCABULARY, blocks, positions=sa.nn.Learned(LENGTH, d_model))


def loss(model: torch.nn.Module, tokens: Tensor) -> Tensor:
    """Cross-entropy of the next token, in nats.

    All positions in one pass: what training reports.
    """
    logits = model(tokens[:, :-1], mask=sa.causal)
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def stepwise(model: torch.nn.Module, tokens: Tensor) -> Tensor:
    """The same when the model is given only what comes before each token.

    That is how it generates.
    """
    tokens = tokens[:256]  # as many forward passes as tokens
    losses = [
        F.cross_entropy(model(tokens[:, :seen], mask=sa.causal)[:, -1], tokens[:, seen])
        for seen in range(1, LENGTH + 1)
    ]
    return torch.stack(losses).mean()


TRAINED = ("train",)  # whose numbers agree within their arm's range


def train(bug: str, d_model: int, **options: Any) -> list[dict[str, Any]]:
    """Train with one bug from all seeds at all rates at once: see `sweep.measure`.

    `final` and `stepwise` are losses on unseen data.
    """
    after = {"final": loss, "stepwise": stepwise}
    return sweep.measure(partial(model, bug, d_model), draw, loss, after, **options)
