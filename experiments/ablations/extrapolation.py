"""Train short, test long: a model that has seen 32 characters is given up to 256."""

import functools
import math
from functools import partial
from pydoc_data import topics
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

import selfattn as sa
from selfattn.nn import (
    Alibi,
    Block,
    FeedForward,
    MultiHeadAttention,
    RelativeBias,
    Rotary,
    Transformer,
)

from .. import training
from .positions import ADDED

LAYERS, HEADS = 2, 4
TARGETS = 16  # the last characters of a window, whose loss is measured
IN_ATTENTION = {
    "RoPE": Rotary,
    "T5": partial(
        RelativeBias,
        HEADS,
        num_buckets=16,
        max_distance=32,
        bidirectional=False,
    ),
    "ALiBi": Alibi,
}
SCHEMES = (*ADDED, *IN_ATTENTION)


@functools.cache
def text() -> tuple[Tensor, Tensor, int]:
    """Python's own help texts as numbers.

    Nine tenths to train on, the rest to test, and the alphabet's size. Characters that
    aren't printable ASCII or newlines are left out.
    """
    whole = "".join(topics.topics[name] for name in sorted(topics.topics))
    alphabet = ["\n", *map(chr, range(32, 127))]
    numbers = {character: number for number, character in enumerate(alphabet)}
    tokens = torch.tensor([numbers[one] for one in whole if one in numbers])
    split = len(tokens) * 9 // 10
    return tokens[:split], tokens[split:], len(alphabet)


def windows(source: torch.Generator, size: int, *, n: int, part: int) -> Tensor:
    """Windows ``(size, n + 1)`` from anywhere in the training text or the test text.

    The one is `part` 0, the other 1.
    """
    tokens = text()[part]
    start = torch.randint(len(tokens) - n, (size, 1), generator=source)
    return tokens[start + torch.arange(n + 1)]


def language_model(scheme: str, *, longest: int, d_model: int) -> Transformer:
    """A causal model. All schemes share its matrices: what they add is drawn last."""
    order = IN_ATTENTION.get(scheme, lambda: None)
    blocks = [
        Block(
            MultiHeadAttention(d_model, HEADS, positions=order()),
            FeedForward(d_model, 2 * d_model),
        )
        for _ in range(LAYERS)
    ]
    model = Transformer(text()[2], blocks)
    if scheme in ADDED:
        model.positions = ADDED[scheme](longest, d_model)
    return model


def loss(model: torch.nn.Module, tokens: Tensor) -> Tensor:
    """Cross-entropy of each next character, in nats."""
    logits = model(tokens[:, :-1], mask=sa.causal)
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def bits(model: torch.nn.Module, tokens: Tensor, n: int) -> Tensor:
    """Bits for each of a window's last characters.

    The model sees at most the last `n` before it. Whatever `n` is, the characters are the
    same.
    """
    logits = model(tokens[:, -n - 1 : -1], mask=sa.causal)[:, -TARGETS:]
    nats = F.cross_entropy(logits.flatten(0, 1), tokens[:, -TARGETS:].flatten())
    return nats / math.log(2)


def measure(
    scheme: str,
    learning_rates: list[float],
    seeds: list[int],
    lengths: list[int],
    steps: int,
    batch_size: int,
    d_model: int,
) -> list[dict[str, Any]]:
    """Train one scheme on windows of the shortest length, test at all.

    One row a rate and seed. `loss` is the mean over all steps, in nats; `bits` has the
    bits a character at each of the `lengths`, on 64 windows of the test text.
    """
    shortest, longest = min(lengths), max(lengths)
    arms = [(rate, seed) for rate in learning_rates for seed in seeds]
    rates, again = zip(*arms, strict=True)
    make = partial(language_model, scheme, longest=longest, d_model=d_model)
    models = training.Seeds(make, again)
    data = training.batches(partial(windows, size=batch_size, n=shortest, part=0), again)
    history = training.train(models, loss, data, steps=steps, learning_rate=rates)
    unseen = next(training.batches(partial(windows, size=64, n=longest, part=1), again))
    few = unseen.split(2, dim=1)  # all windows' scores at once would not fit a cache

    def tested(n: int) -> Tensor:
        parts = [models.evaluate(partial(bits, n=n), part) for part in few]
        return torch.stack(parts).mean(0)

    found = torch.stack([tested(n) for n in lengths], dim=1)
    columns = {
        "learning_rate": rates,
        "seed": again,
        "loss": history.mean(0).tolist(),
        "bits": found.tolist(),
    }
    return pd.DataFrame(columns).to_dict("records")
