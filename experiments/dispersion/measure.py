"""How sharp a softmax stays when keys are added.

Its exact law, and a trained search for the largest item.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import selfattn as sa

from ..training import sweep

CLASSES = 10
OTHERS = 0.9


def law(gap: float, n: int) -> float:
    r"""The weight of one key whose score is `gap` above those of n − 1 equal others.

    .. math:: p = \frac{e^g}{e^g + n - 1}

    >>> law(0.0, 4)
    0.25
    """
    return 1 / (1 + (n - 1) * math.exp(-gap))


def deviation(
    gaps: list[float],
    lengths: list[int],
    seeds: list[int],
) -> list[dict[str, Any]]:
    """How far `sa.softmax` is from the law: one row a seed.

    The seed shifts the scores and chooses the place. `error` is the largest relative one
    over all gaps and lengths, in double precision.
    """
    rows = []
    for seed in seeds:
        source, error = np.random.default_rng(seed), 0.0
        for gap in gaps:
            for n in lengths:
                scores = np.full(n, 100 * source.standard_normal())
                place = source.integers(n)
                scores[place] += gap
                error = max(error, abs(sa.softmax(scores)[place] / law(gap, n) - 1))
        rows.append({"seed": seed, "error": float(error)})
    return rows


class Batch(NamedTuple):
    """Items' sizes in [0, 1] and classes, each ``(batch, n)``; the largest's place.

    The place is ``(batch,)``.
    """

    size: Tensor
    kind: Tensor
    place: Tensor


def draw(source: torch.Generator, size: int, n: int) -> Batch:
    """`size` fresh bags of n items of random classes.

    One has size 1, the others at most `OTHERS`. Veličković et al. (2024) draw all sizes
    from [0, 1]; with more items the two largest then come closer. Here the search is as
    easy at any n.
    """
    sizes = OTHERS * torch.rand(size, n, generator=source)
    place = torch.randint(n, (size, 1), generator=source)
    kind = torch.randint(CLASSES, (size, n), generator=source)
    return Batch(sizes.scatter(1, place, 1.0), kind, place[:, 0])


class Search(torch.nn.Module):
    """Items, embedded by a small network, meet one learned query.

    The answer is the class of the largest.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.embed = torch.nn.Sequential(
            torch.nn.Linear(1 + CLASSES, d_model),
            torch.nn.GELU(),
            torch.nn.Linear(d_model, d_model),
        )
        self.query = torch.nn.Parameter(torch.randn(1, d_model))
        self.key = torch.nn.Linear(d_model, d_model)
        self.value = torch.nn.Linear(d_model, d_model)
        self.answer = torch.nn.Sequential(
            torch.nn.Linear(d_model, d_model),
            torch.nn.GELU(),
            torch.nn.Linear(d_model, CLASSES),
        )

    def scores(self, given: Batch) -> tuple[Tensor, Tensor]:
        """The query's score for each item, ``(batch, 1, n)``, and the items' values.

        The values are ``(batch, n, d_model)``.
        """
        kinds = F.one_hot(given.kind, CLASSES).to(given.size.dtype)
        items = self.embed(torch.cat([given.size[..., None], kinds], -1))
        return sa.scaled_dot_product(self.query, self.key(items)), self.value(items)

    def forward(self, given: Batch) -> Tensor:
        """Logits of the answer, ``(batch, classes)``."""
        scores, values = self.scores(given)
        return self.answer(sa.softmax(scores) @ values)[:, 0]


def loss(model: torch.nn.Module, given: Batch) -> Tensor:
    """Cross-entropy in nats."""
    answer = given.kind.gather(1, given.place[:, None])[:, 0]
    return F.cross_entropy(model(given), answer)


def weighings(scores: Tensor, trained_n: int) -> dict[str, Tensor]:
    """Three ways to turn the same scores into weights.

    One is as trained, two only the test uses: *hard* puts all weight on the largest
    score; *log n* multiplies the scores by log n / log `trained_n` (Chiang & Cholak
    2022).
    """
    n = scores.shape[-1]
    return {
        "softmax": sa.softmax(scores),
        "hard": F.one_hot(scores.argmax(-1), n).to(scores.dtype),
        "log n": sa.softmax(scores * math.log(n) / math.log(trained_n)),
    }


def tested(model: Search, given: Batch, trained_n: int) -> dict[str, dict[str, Tensor]]:
    """Of each way of weighing: the share of right answers, the largest item's weight."""
    scores, values = model.scores(given)
    place = given.place[:, None]
    answer = given.kind.gather(1, place)[:, 0]
    found = {}
    for name, weights in weighings(scores, trained_n).items():
        right = model.answer(weights @ values)[:, 0].argmax(-1) == answer
        found[name] = {
            "accuracy": right.float().mean(),
            "weight": weights[:, 0].gather(1, place).mean(),
            "spread": scores.amax() - scores.amin(),
        }
    return found


TRAINED = ("train",)  # whose numbers agree within their arm's range


def train(
    d_model: int,
    trained_n: int,
    lengths: list[int],
    **options: Any,
) -> list[dict[str, Any]]:
    """Train on bags of `trained_n` items: see `sweep.trained`.

    Test on 256 of each length. One row a rate, seed, length and weighing. `loss` is the
    mean over all steps; `spread` the range of all scores in the test.
    """
    make, trained_on = partial(Search, d_model), partial(draw, n=trained_n)
    models, trained, _ = sweep.trained(make, trained_on, loss, **options)
    seeds = [row["seed"] for row in trained]
    rows = []
    for n in lengths:
        given = sweep.unseen(partial(draw, n=n), seeds, size=256)
        for i, row in enumerate(trained):
            with torch.no_grad():
                found = tested(models[i], Batch(*(part[i] for part in given)), trained_n)
            for name, numbers in found.items():
                plain = {key: number.item() for key, number in numbers.items()}
                rows.append({"n": n, "weighing": name} | row | plain)
    return rows
