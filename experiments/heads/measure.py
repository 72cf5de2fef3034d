"""How many heads at a fixed width? Several facts at once through one layer."""

from functools import partial
from typing import Any

from ..tasks import facts
from ..training import sweep


def train(
    questions: int,
    num_heads: int,
    d_k: int,
    d_model: int,
    **options: Any,
) -> list[dict[str, Any]]:
    """Train one number of heads from all seeds at all rates at once: see `sweep.measure`.

    `accuracy` is the share of right answers on 1024 examples that training never sees.
    """
    make = partial(facts.Facts, questions, num_heads=num_heads, d_k=d_k, d_model=d_model)
    draw, after = partial(facts.draw, questions=questions), {"accuracy": facts.accuracy}
    return sweep.measure(make, draw, facts.loss, after, **options)
