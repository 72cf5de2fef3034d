"""Train short, test long: a model that has seen 32 characters is given up to 256."""

import functools
import math
from functools import partial
from pydoc_data import topics
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import selfattn as sa
from selfattn.nn import Transformer

from ..tasks import schemes
from ..training import sweep
from ..training.seeds import batches

SCHEMES = ("learned", "sinusoidal", "RoPE", "T5", "ALiBi")
TARGETS = 16  # the last characters of a window, whose loss is measured


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
    """A causal model of two layers, for up to `longest` characters."""
    return schemes.transformer(
        scheme,
        text()[2],
        longest=longest,
        d_model=d_model,
        num_buckets=16,
        max_distance=32,
        bidirectional=False,
    )


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


TRAINED = ("train",)  # whose numbers agree within their arm's range


def train(
    scheme: str,
    lengths: list[int],
    d_model: int,
    **options: Any,
) -> list[dict[str, Any]]:
    """Train one scheme at the shortest length, test at all: see `sweep.trained`.

    One row a rate and seed. `loss` is the mean over all steps, in nats; `bits` has the
    bits a character at each of the `lengths`, on 64 windows of the test text.
    """
    shortest, longest = min(lengths), max(lengths)
    make = partial(language_model, scheme, longest=longest, d_model=d_model)
    draw = partial(windows, n=shortest, part=0)
    models, rows, _ = sweep.trained(make, draw, loss, **options)
    seeds = [row["seed"] for row in rows]
    test = next(batches(partial(windows, size=64, n=longest, part=1), seeds))
    few = test.split(2, dim=1)  # all windows' scores at once would not fit a cache

    def tested(n: int) -> Tensor:
        parts = [models.evaluate(partial(bits, n=n), part) for part in few]
        return torch.stack(parts).mean(0)

    found = torch.stack([tested(n) for n in lengths], dim=1).tolist()
    return [row | {"bits": each} for row, each in zip(rows, found, strict=True)]
