"""One model at several learning rates from several seeds, all in one program, and what is measured after."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from . import training


def unseen(draw: Callable[..., Any], seeds: Sequence[int], *, split: int = 1) -> Any:
    """1024 examples for each seed that training never draws; another `split` gives others.

    >>> unseen(lambda source, size: torch.randint(10, (size,), generator=source), seeds=[3, 4]).shape
    torch.Size([2, 1024])
    """
    return next(training.batches(partial(draw, size=1024), [split * 10**6 + seed for seed in seeds]))


def measure(
    make: Callable[[], torch.nn.Module],
    draw: Callable[..., Any],
    loss: Callable[..., Tensor],
    after: Mapping[str, Callable[..., Tensor]],
    *,
    learning_rates: Sequence[float],
    seeds: Sequence[int],
    steps: int,
    batch_size: int,
) -> list[dict[str, Any]]:
    """Train what `make` builds on what ``draw(source, size)`` gives: one row a rate and seed.

    `loss` is the mean over all steps, `curve` about twenty means along the way; each function of `after`,
    called as ``f(model, batch)`` with unseen examples, gives a number under its name.
    """
    runs = [(rate, seed) for rate in learning_rates for seed in seeds]
    each_rate, each_seed = map(list, zip(*runs, strict=True))
    models = training.Seeds(make, each_seed)
    data = training.batches(partial(draw, size=batch_size), each_seed)
    history = training.train(models, loss, data, steps=steps, learning_rate=each_rate)
    window, fresh = max(1, steps // 20), unseen(draw, each_seed)
    columns = {
        "learning_rate": each_rate,
        "seed": each_seed,
        "loss": history.mean(0).tolist(),
        "curve": history.unfold(0, window, window).mean(-1).T.tolist(),
    }
    columns |= {name: models.evaluate(f, fresh).tolist() for name, f in after.items()}
    return pd.DataFrame(columns).to_dict("records")
