"""How many heads can go after training?

Heads of one layer are switched off, in three orders.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tasks import facts
from ..training import sweep
from ..training.seeds import Seeds, batches, train


def gated(model: facts.Facts, given: facts.Batch, gates: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and accuracy, ``(choices,)``, of heads times `gates` ``(choices, heads)``."""
    found = model.found(given) * gates[:, None, :, None, None]
    # found: (choices, batch, heads, 1, d_k), logits: (choices, batch, R, values)
    logits = model.read(found.flatten(0, 1)).unflatten(0, found.shape[:2])
    answers = given.answers.expand(logits.shape[:-1])
    surprise = F.cross_entropy(logits.movedim(-1, 1), answers, reduction="none")
    right = (logits.argmax(-1) == given.answers).float()
    return surprise.mean((1, 2)), right.mean((1, 2))


def importance(model: facts.Facts, given: facts.Batch) -> Tensor:
    r"""How much the loss would change with each head's gate: ``(heads,)``.

    .. math:: I_h = \mathbb{E}_x \left| \frac{\partial L(x)}{\partial \xi_h} \right|

    (Michel et al. 2019, section 4.1.) All gates are open.
    """
    found, answers = model.found(given), given.answers

    def total(gates: Tensor) -> Tensor:
        logits = model.read(found * gates[..., None, None])
        logits = logits.flatten(0, 1)
        losses = F.cross_entropy(logits, answers.flatten(), reduction="none")
        return losses.sum() / answers.shape[1]

    gates = torch.ones(found.shape[:2])  # one set for each example: the slopes stay apart
    return torch.func.grad(total)(gates).abs().mean(0)


def greedy(models: Seeds, given: facts.Batch, num_heads: int) -> Tensor:
    """Which head to remove next, so that the loss on `given` rises least.

    Orders ``(seeds, heads)``.
    """
    seeds = len(given.keys)
    gates, order = torch.ones(seeds, num_heads), []
    for _ in range(num_heads):
        choices = gates[:, None] * (1 - torch.eye(num_heads))  # each one less
        losses, _ = models.evaluate(gated, given, choices)
        order.append(losses.masked_fill(gates == 0, torch.inf).argmin(1))
        gates[torch.arange(seeds), order[-1]] = 0.0
    return torch.stack(order, dim=1)


def closing(order: Tensor) -> Tensor:
    """Gates after each removal, none first.

    Orders ``(..., heads)`` to gates ``(..., removed, heads)``.

    >>> closing(torch.tensor([1, 0])).tolist()
    [[1.0, 1.0], [1.0, 0.0]]
    """
    place = order.argsort(-1)  # when each head goes
    return (place[..., None, :] >= torch.arange(order.shape[-1])[:, None]).float()


TRAINED = ("prune",)  # whose numbers agree within their arm's range


def prune(
    questions: int,
    num_heads: int,
    learning_rate: float,
    seeds: list[int],
    steps: int,
    batch_size: int,
    d_model: int,
    random_orders: int,
) -> list[dict[str, Any]]:
    """Train from all `seeds` at once, then remove heads.

    One row for each seed, order and number removed. The orders are found on a validation
    split. `accuracy` is that on a test split of 1024 other examples; for "random" it is
    the mean over `random_orders` orders.
    """
    sizes = {"num_heads": num_heads, "d_k": d_model // num_heads, "d_model": d_model}
    models = Seeds(partial(facts.Facts, questions, **sizes), seeds)
    draw = partial(facts.draw, questions=questions)
    data = batches(partial(draw, size=batch_size), seeds)
    train(models, facts.loss, data, steps=steps, learning_rate=learning_rate)
    test, validation = (sweep.unseen(draw, seeds, split=split) for split in (1, 2))
    shuffle = partial(torch.rand, random_orders, num_heads)
    shuffled = next(batches(lambda source: shuffle(generator=source), seeds))
    orders = {
        "greedy": greedy(models, validation, num_heads)[:, None],
        "importance": models.evaluate(importance, validation).argsort(-1)[:, None],
        "random": shuffled.argsort(-1),
    }  # each (seeds, orders, heads)
    rows = []
    for name, order in orders.items():
        _, accuracy = models.evaluate(gated, test, closing(order).flatten(1, 2))
        curves = accuracy.unflatten(1, order.shape[1:]).mean(1).tolist()
        for seed, curve in zip(seeds, curves, strict=True):
            rows += [
                {"seed": seed, "order": name, "removed": removed, "accuracy": found}
                for removed, found in enumerate(curve)
            ]
    return rows
