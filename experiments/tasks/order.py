"""Tasks that need to know where tokens stand: random tokens, and the answer at each place."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

VOCABULARY = 16
NO_ANSWER = -100  # what cross_entropy skips


def reversal(tokens: Tensor) -> Tensor:
    """The answer at place i is the token at n − 1 − i.

    To find it, a token must know its own place.

    >>> reversal(torch.tensor([5, 6, 7])).tolist()
    [7, 6, 5]
    """
    return tokens.flip(-1)


def previous(tokens: Tensor) -> Tensor:
    """The answer at place i is the token at i − 1, none at the first.

    A distance and a direction suffice.

    >>> previous(torch.tensor([5, 6, 7])).tolist()
    [-100, 5, 6]
    """
    first = torch.full_like(tokens[..., :1], NO_ANSWER)
    return torch.cat([first, tokens[..., :-1]], dim=-1)


TASKS: dict[str, Callable[[Tensor], Tensor]] = {
    "reversal": reversal,
    "previous token": previous,
}


def draw(source: torch.Generator, size: int, n: int) -> Tensor:
    """Random tokens ``(size, n)``."""
    return torch.randint(VOCABULARY, (size, n), generator=source)


def loss(model: torch.nn.Module, tokens: Tensor, task: str) -> Tensor:
    """Cross-entropy in nats."""
    answers = TASKS[task](tokens)
    logits = model(tokens).flatten(0, -2)
    return F.cross_entropy(logits, answers.flatten(), ignore_index=NO_ANSWER)


def accuracy(model: torch.nn.Module, tokens: Tensor, task: str) -> Tensor:
    """Share of right answers."""
    answers = TASKS[task](tokens)
    return (model(tokens).argmax(-1) == answers).sum() / (answers != NO_ANSWER).sum()
