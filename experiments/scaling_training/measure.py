"""Does the scale decide what is learnt?

The lookup task, at several widths of queries and keys.
"""

from typing import Any

import torch
from torch import Tensor

from ..tasks import lookup
from ..training import sweep
from ..training.seeds import Seeds


def steps_to(history: Tensor, *, level: float = 0.5, window: int = 10) -> Tensor:
    """First step at which the loss, averaged over `window` steps, is below `level`.

    All steps if never.

    >>> history = torch.tensor([[3.0, 1.0], [2.0, 0.0], [0.4, 0.0], [0.4, 0.0]])
    >>> steps_to(history, window=2).tolist()
    [4, 3]
    """
    below = history.unfold(0, min(window, len(history)), 1).mean(-1) < level
    return torch.where(below.any(0), below.float().argmax(0) + window, len(history))


TRAINED = ("train",)  # whose numbers agree within their arm's range


def train(
    arm: str,
    d_k: int,
    learning_rate: float,
    seeds: list[int],
    steps: int,
    batch_size: int,
    d_model: int,
) -> list[dict[str, Any]]:
    """Train one arm from all `seeds` at once: one row a seed.

    `gradient` is the norm at W_Q before the first step; `steps_to_half` the step at which
    the loss falls below 0.5 nats; `loss` its mean over all steps; `accuracy` that on 1024
    examples that training never sees; `curve` about twenty losses along the way.
    """

    def make() -> lookup.Lookup:
        return lookup.Lookup(lookup.ARMS[arm](d_k), d_model=d_model, d_k=d_k)

    fresh, first = Seeds(make, seeds), sweep.unseen(lookup.draw, seeds, size=256)
    loss = fresh(lookup.loss, first).sum()
    (gradient,) = torch.autograd.grad(loss, fresh.parameters["w_q"])
    options = {"seeds": seeds, "steps": steps, "batch_size": batch_size}
    models, rows, history = sweep.trained(
        make, lookup.draw, lookup.loss, learning_rates=[learning_rate], **options
    )
    test = sweep.unseen(lookup.draw, seeds, split=2)
    columns = {
        "gradient": gradient.flatten(1).norm(dim=1).tolist(),
        "steps_to_half": steps_to(history).tolist(),
        "accuracy": models.evaluate(lookup.accuracy, test).tolist(),
        "curve": history[:: max(1, steps // 20)].T.tolist(),
    }
    for i, row in enumerate(rows):
        del row["learning_rate"]  # a parameter of the cell
        row |= {name: column[i] for name, column in columns.items()}
    return rows
