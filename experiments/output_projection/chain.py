"""Two lookups in a row: a task for two layers, the second of which needs what the first has found.

Facts lead from symbols a to symbols b, others from b to symbols c. A query names an a; the answer is the c
that its b leads to. Each fact is one token, and so is the query.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from selfattn.nn import Block, MultiHeadAttention, Transformer

SYMBOLS = 4  # in each of the three alphabets; c is written with the letters of a
SIGNS = 2 * SYMBOLS + 1  # those of a, those of b, and what a query has for a second sign


class Batch(NamedTuple):
    """Facts and, last, the query ``(batch, SIGNS)``: ``first * SIGNS + second``; answers ``(batch,)``."""

    tokens: Tensor
    answer: Tensor


def draw(source: torch.Generator, size: int) -> Batch:
    """`size` fresh examples: two random tables and one question."""
    first, second = torch.randint(SYMBOLS, (2, size, SYMBOLS), generator=source)
    asked = torch.randint(SYMBOLS, (size, 1), generator=source)
    a = torch.arange(SYMBOLS).expand(size, SYMBOLS)
    query = asked * SIGNS + SIGNS - 1
    tokens = torch.cat([a * SIGNS + SYMBOLS + first, (SYMBOLS + a) * SIGNS + second, query], dim=1)
    return Batch(tokens, second.gather(1, first.gather(1, asked))[:, 0])


class Pair(torch.nn.Module):
    """An embedding of a token's first sign plus one of its second; the sum has variance 1."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.first, self.second = (torch.nn.Embedding(SIGNS, d_model) for _ in range(2))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens ``(..., n)`` to vectors ``(..., n, d_model)``."""
        return (self.first(tokens // SIGNS) + self.second(tokens % SIGNS)) / 2**0.5


def model(num_heads: int, *, d_model: int) -> Transformer:
    """Two blocks of attention and nothing else; the readout sees the query's token."""
    layers = [MultiHeadAttention(d_model, num_heads, bias=False) for _ in range(2)]
    transformer = Transformer(SYMBOLS, [Block(layer) for layer in layers])
    transformer.embedding = Pair(d_model)
    return transformer


def loss(model: torch.nn.Module, given: Batch) -> Tensor:
    """Cross-entropy in nats."""
    return F.cross_entropy(model(given.tokens)[:, -1], given.answer)


def accuracy(model: torch.nn.Module, given: Batch) -> Tensor:
    """Share of right answers."""
    return (model(given.tokens)[:, -1].argmax(-1) == given.answer).float().mean()
