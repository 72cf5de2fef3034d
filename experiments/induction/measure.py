"""Does copying need two layers?

Attention without feed-forward layers on blocks of tokens that repeat.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import selfattn as sa
from selfattn.nn import Block, MultiHeadAttention, Rotary, Transformer

from ..training import sweep

VOCABULARY, HEADS = 16, 2


class Batch(NamedTuple):
    """Sequences ``(batch, n + 1)``, and how long their blocks are.

    Each is a block of distinct tokens, repeated.
    """

    tokens: Tensor
    period: Tensor


def draw(
    source: torch.Generator,
    size: int,
    *,
    n: int,
    shortest: int,
    longest: int,
) -> Batch:
    """`size` fresh sequences.

    The lengths of their blocks, `shortest` to `longest`, are drawn too. No fixed distance
    leads to the answer: where a token occurred before has to be looked up.
    """
    period = torch.randint(shortest, longest + 1, (size, 1), generator=source)
    block = torch.rand(size, VOCABULARY, generator=source).argsort(-1)
    return Batch(block.gather(1, torch.arange(n + 1) % period), period)


def model(layers: int, d_model: int) -> Transformer:
    """Attention alone, causal and with RoPE.

    A model of two layers shares its first with that of one.
    """
    attention = partial(MultiHeadAttention, d_model, HEADS)
    blocks = [Block(attention(positions=Rotary())) for _ in range(layers)]
    return Transformer(VOCABULARY, blocks)


def loss(model: torch.nn.Module, given: Batch) -> Tensor:
    """Cross-entropy of the next token, in nats; the first block can only be guessed."""
    logits = model(given.tokens[:, :-1], mask=sa.causal)
    return F.cross_entropy(logits.flatten(0, 1), given.tokens[:, 1:].flatten())


def accuracy(model: torch.nn.Module, given: Batch) -> Tensor:
    """Share of right next tokens, where the token that asks has occurred before."""
    right = model(given.tokens[:, :-1], mask=sa.causal).argmax(-1) == given.tokens[:, 1:]
    known = torch.arange(right.shape[-1]) >= given.period
    return (right & known).sum() / known.sum()


def induction_scores(weights: Tensor, period: Tensor) -> Tensor:
    """How much each head attends to what followed the asking token when it last occurred.

    Shapes: `weights` ``(batch, heads, n, n)`` on sequences of distinct tokens that come
    again after `period` ``(batch, 1)`` of them; the scores ``(heads,)``, means over the
    queries i that have occurred before. Their key is at i − period + 1 (Olsson et al.
    2022).

    >>> one_back = torch.eye(4).roll(-1, dims=1)  # query i looks at key i − 1
    >>> induction_scores(one_back.expand(1, 1, 4, 4), period=torch.tensor([[2]]))
    tensor([1.])
    """
    key = torch.arange(weights.shape[-1]) - period + 1  # (batch, n)
    index = key.clamp(min=0)[:, None, :, None].expand(*weights.shape[:-1], 1)
    found = weights.gather(-1, index)[..., 0]
    known = (key >= 1)[:, None]
    return (found * known).sum((0, 2)) / known.sum()


def strongest_head(model: torch.nn.Module, given: Batch) -> Tensor:
    """The largest induction score of a head in any layer."""
    x, best = model.embedding(given.tokens[:, :-1]), []
    for block in model.blocks:
        normed = block.attention_norm(x)
        weights = block.attention.attention_weights(normed, mask=sa.causal)
        best.append(induction_scores(weights, given.period).amax())
        x = block(x, mask=sa.causal)
    return torch.stack(best).amax()


TRAINED = ("train",)  # whose numbers agree within their arm's range


def train(
    layers: int,
    d_model: int,
    n: int,
    shortest: int,
    longest: int,
    **options: Any,
) -> list[dict[str, Any]]:
    """Train one depth from all seeds at all rates: see `sweep.measure`.

    `accuracy` and `score`, that of the `strongest_head`, are those of the trained model
    on sequences that training never sees.
    """
    return sweep.measure(
        partial(model, layers, d_model),
        partial(draw, n=n, shortest=shortest, longest=longest),
        loss,
        {"accuracy": accuracy, "score": strongest_head},
        **options,
    )
