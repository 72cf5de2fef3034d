"""One model at several learning rates from several seeds, all in one program, and what is measured after."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from .seeds import Seeds, batches, train


def runs(learning_rates: Sequence[float], seeds: Sequence[int]) -> tuple[list[float], list[int]]:
    """Every seed at every learning rate: the rate of each run, and its seed.

    >>> runs([0.1, 0.2], [5, 6])
    ([0.1, 0.1, 0.2, 0.2], [5, 6, 5, 6])
    """
    rates, again = zip(*product(learning_rates, seeds), strict=True)
    return list(rates), list(again)


def unseen(draw: Callable[..., Any], seeds: Sequence[int], *, size: int = 1024, split: int = 1) -> Any:
    """`size` examples for each seed that training never draws; another `split` gives others.

    >>> unseen(lambda source, size: torch.randint(10, (size,), generator=source), seeds=[3, 4]).shape
    torch.Size([2, 1024])
    """
    return next(batches(partial(draw, size=size), [split * 10**6 + seed for seed in seeds]))


def trained(
    make: Callable[[], torch.nn.Module],
    draw: Callable[..., Any],
    loss: Callable[..., Tensor],
    *,
    learning_rates: Sequence[float],
    seeds: Sequence[int],
    steps: int,
    batch_size: int,
    **options: Any,
) -> tuple[Seeds, list[dict[str, Any]], Tensor]:
    """Train what `make` builds on what ``draw(source, size)`` gives, from every seed at every rate.

    Returns the models, a row for each, and the losses of all steps. A row's `loss` is the mean over all
    steps. The options are those of `seeds.train`.
    """
    rates, again = runs(learning_rates, seeds)
    models = Seeds(make, again)
    data = batches(partial(draw, size=batch_size), again)
    history = train(models, loss, data, steps=steps, learning_rate=rates, **options)
    columns = zip(rates, again, history.mean(0).tolist(), strict=True)
    rows = [{"learning_rate": rate, "seed": seed, "loss": mean} for rate, seed, mean in columns]
    return models, rows, history


def measure(
    make: Callable[[], torch.nn.Module],
    draw: Callable[..., Any],
    loss: Callable[..., Tensor],
    after: Mapping[str, Callable[..., Tensor]],
    *,
    examples: int = 1024,
    **options: Any,
) -> list[dict[str, Any]]:
    """Train as `trained` does, with its options, and measure: one row a rate and seed.

    `curve` has about twenty means of the loss along the way; each function of `after`, called as
    ``f(model, batch)`` with as many unseen `examples`, gives a number under its name.
    """
    models, rows, history = trained(make, draw, loss, **options)
    window = max(1, len(history) // 20)
    columns = {"curve": history.unfold(0, window, window).mean(-1).T.tolist()}
    fresh = unseen(draw, [row["seed"] for row in rows], size=examples)
    columns |= {name: models.evaluate(f, fresh).tolist() for name, f in after.items()}
    return [row | {name: column[i] for name, column in columns.items()} for i, row in enumerate(rows)]
