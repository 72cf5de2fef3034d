"""Does bounding the scores widen the usable learning rates?

The lookup task, with and without QK-norm.
"""

from typing import Any

import torch
from torch import Tensor

from ..tasks import lookup
from ..training import sweep


def largest_score(model: lookup.Lookup, given: lookup.Batch) -> Tensor:
    """The largest score before softmax, in absolute value."""
    seen = []

    def watch(_: torch.nn.Module, inputs: Any, compared: tuple[Tensor, Tensor]) -> None:
        q, k = compared
        seen.append((q @ k.mT).abs().amax())

    with model.compare.register_forward_hook(watch):
        model(given)
    return seen[0]


TRAINED = ("train",)  # whose numbers agree within their arm's range


def train(arm: str, d_k: int, d_model: int, **options: Any) -> list[dict[str, Any]]:
    """Train one arm of `lookup.ARMS` from all seeds at all rates at once.

    See `sweep.measure`. `accuracy` is the share of right answers and `score` the largest
    score, on 1024 examples that training never sees.
    """
    after = {"accuracy": lookup.accuracy, "score": largest_score}
    return sweep.measure(
        lambda: lookup.Lookup(lookup.ARMS[arm](d_k), d_model=d_model, d_k=d_k),
        lookup.draw,
        lookup.loss,
        after,
        **options,
    )
