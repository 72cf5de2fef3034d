"""Attention with one bug at a time: what tests of its properties see, and what a loss curve shows."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import selfattn as sa

from .. import training

VOCABULARY, LENGTH, PERIODS, HEADS = 8, 20, (2, 3, 4), 2


class Correct(sa.nn.MultiHeadAttention):
    """Multi-head attention in five small steps, so that a bug can replace one of them."""

    def scale(self, n: int) -> float:
        """The factor on the scores of n tokens."""
        return (self.d_model // self.num_heads) ** -0.5

    def allowed(self, allowed: Tensor) -> Tensor:
        """The mask ``(n, n)``, True = may attend."""
        return allowed

    def weights(self, scores: Tensor, allowed: Tensor) -> Tensor:
        """Weights ``(…, heads, n, n)`` of scores."""
        return sa.softmax(torch.where(allowed, scores, -torch.inf))

    def merged(self, heads: Tensor) -> Tensor:
        """``(…, heads, n, d_k)`` to ``(…, n, d_model)``."""
        return sa.merge_heads(heads)

    def mixed(self, x: Tensor) -> Tensor:
        """The output projection."""
        return self.output(x)

    def attention_weights(self, x: Tensor, *, mask: Any = None) -> Tensor:
        """The weights by which `forward` gathers."""
        n = x.shape[-2]
        q, k = (sa.split_heads(part(x), self.num_heads) for part in (self.query, self.key))
        allowed = torch.ones(n, n).bool() if mask is None else self.allowed(mask.dense(n, n, like=x))
        return self.weights(q @ k.mT * self.scale(n), allowed)

    def forward(self, x: Tensor, *, mask: Any = None) -> Tensor:
        """What each token gathers."""
        v = sa.split_heads(self.value(x), self.num_heads)
        return self.mixed(self.merged(self.attention_weights(x, mask=mask) @ v))


def replaced(**steps: Any) -> type[Correct]:
    """The correct layer with some of its steps replaced."""
    return type("Buggy", (Correct,), steps)


LAYERS: dict[str, type[Correct]] = {
    "correct": Correct,
    "scale 1/√d_model": replaced(scale=lambda self, n: self.d_model**-0.5),
    "scale 1/√n": replaced(scale=lambda self, n: n**-0.5),
    "scale √d_k": replaced(scale=lambda self, n: (self.d_model // self.num_heads) ** 0.5),
    "mask after softmax": replaced(weights=lambda self, s, allowed: sa.softmax(s) * allowed),
    "mask fills 0": replaced(weights=lambda self, s, allowed: sa.softmax(torch.where(allowed, s, 0.0))),
    "mask inverted": replaced(allowed=lambda self, allowed: ~allowed),
    "mask dropped": replaced(allowed=lambda self, allowed: allowed | True),
    "mask one too far": replaced(allowed=lambda self, allowed: allowed | allowed.roll(-1, 0)),
    "softmax over queries": replaced(
        weights=lambda self, s, allowed: sa.softmax(torch.where(allowed, s, -torch.inf), axis=-2)
    ),
    "heads not moved back": replaced(
        merged=lambda self, heads: heads.reshape(*heads.shape[:-3], heads.shape[-2], -1)
    ),
    "no W_O": replaced(mixed=lambda self, x: x),
}


def rows_sum_to_one(layer: Correct, x: Tensor) -> bool:
    """Each query's weights sum to one."""
    totals = layer.attention_weights(x, mask=sa.causal).sum(-1)
    return torch.allclose(totals, torch.ones_like(totals))


def nothing_leaks(layer: Correct, x: Tensor) -> bool:
    """Another last token changes no earlier output."""
    other = torch.cat([x[:, :-1], -x[:, -1:]], 1)
    return torch.allclose(layer(x, mask=sa.causal)[:, :-1], layer(other, mask=sa.causal)[:, :-1])


def order_is_free(layer: Correct, x: Tensor) -> bool:
    """Without a mask, tokens in reverse give the outputs in reverse."""
    return torch.allclose(layer(x.flip(1)), layer(x).flip(1))


def agrees(layer: Correct, x: Tensor) -> bool:
    """The outputs are those of `sa.multi_head_attention` with the same matrices."""
    parts = (layer.query, layer.key, layer.value, layer.output)
    matrices = [part.weight.T for part in parts]
    expected = sa.multi_head_attention(x, x, *matrices, num_heads=layer.num_heads, mask=sa.causal)
    return torch.allclose(layer(x, mask=sa.causal), expected)


TESTS = {
    "rows sum to one": rows_sum_to_one,
    "no leak": nothing_leaks,
    "order is free": order_is_free,
    "agreement": agrees,
}


def passed(bug: str, seeds: list[int], d_model: int) -> list[dict[str, Any]]:
    """Which tests a layer with this bug passes, on random weights and tokens: one row a seed."""
    rows = []
    for seed in seeds:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layer = LAYERS[bug](d_model, HEADS).double()
            x = torch.randn(2, LENGTH, d_model, dtype=torch.float64)
        with torch.no_grad():
            rows.append({"seed": seed} | {name: test(layer, x) for name, test in TESTS.items()})
    return rows


def draw(source: torch.Generator, size: int) -> Tensor:
    """`size` fresh sequences ``(size, LENGTH + 1)``: a random block of 2, 3 or 4 tokens, repeated."""
    period = torch.tensor(PERIODS)[torch.randint(len(PERIODS), (size, 1), generator=source)]
    block = torch.randint(VOCABULARY, (size, max(PERIODS)), generator=source)
    return block.gather(1, torch.arange(LENGTH + 1) % period)


def model(bug: str, d_model: int) -> torch.nn.Module:
    """A language model of two blocks, all of whose layers have the bug."""
    blocks = [
        sa.nn.Block(LAYERS[bug](d_model, HEADS), sa.nn.FeedForward(d_model, 2 * d_model)) for _ in range(2)
    ]
    return sa.nn.Transformer(VOCABULARY, blocks, positions=sa.nn.Learned(LENGTH, d_model))


def loss(model: torch.nn.Module, tokens: Tensor) -> Tensor:
    """Cross-entropy of the next token, in nats."""
    return F.cross_entropy(model(tokens[:, :-1], mask=sa.causal).flatten(0, 1), tokens[:, 1:].flatten())


def measure(
    bug: str, learning_rates: list[float], seeds: list[int], steps: int, batch_size: int, d_model: int
) -> list[dict[str, Any]]:
    """Train from all `seeds` at each learning rate at once; one row a seed and rate: the loss in the end.

    It is that on 256 unseen sequences, computed as in training; `curve` is about twenty training losses.
    """
    again, rates = seeds * len(learning_rates), [rate for rate in learning_rates for _ in seeds]
    models = training.Seeds(partial(model, bug, d_model), again)
    data = training.batches(partial(draw, size=batch_size), again)
    history = training.train(models, loss, data, steps=steps, learning_rate=rates)
    unseen = next(training.batches(partial(draw, size=256), [10**6 + seed for seed in again]))
    columns = {
        "seed": again,
        "learning_rate": rates,
        "loss": models.evaluate(loss, unseen).tolist(),
        "curve": history[:: max(1, steps // 20)].T.tolist(),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
