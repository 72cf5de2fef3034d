"""Attention in small steps, and mistakes that replace one of them.

Each runs and trains without a word.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import selfattn as sa


class Correct(sa.nn.MultiHeadAttention):
    """Multi-head attention as it should be, step by step."""

    def projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of all heads, each ``(…, n, d_model)``."""
        return self.query(x), self.key(x), self.value(x)

    def split(self, x: Tensor) -> Tensor:
        """``(…, n, d_model)`` to ``(…, heads, n, d_k)``."""
        return sa.split_heads(x, self.num_heads)

    def scale(self, q: Tensor) -> float:
        """The factor on the scores."""
        return q.shape[-1] ** -0.5

    def allowed(self, mask: Tensor) -> Tensor:
        """The mask ``(n, n)``, queries down, keys across; True = may attend."""
        return mask

    def weights(self, scores: Tensor, allowed: Tensor) -> Tensor:
        """The weights ``(…, heads, n, n)``."""
        return sa.softmax(torch.where(allowed, scores, -torch.inf))

    def merge(self, heads: Tensor) -> Tensor:
        """``(…, heads, n, d_k)`` to ``(…, n, d_model)``."""
        return sa.merge_heads(heads)

    def mixed(self, x: Tensor) -> Tensor:
        """The output projection W_O."""
        return self.output(x)

    def attention_weights(self, x: Tensor, *, mask: Any = None) -> Tensor:
        """The weights by which `forward` gathers.

        Without a mask every token attends to every token.
        """
        q, k, _ = map(self.split, self.projected(x))
        scores = q @ k.mT * self.scale(q)
        shape = scores.shape[-2:]
        everywhere = torch.ones(shape, dtype=torch.bool)
        allowed = everywhere if mask is None else self.allowed(mask.dense(*shape, like=x))
        return self.weights(scores, allowed)

    def forward(self, x: Tensor, *, mask: Any = None) -> Tensor:
        """What each token gathers from the others."""
        *_, v = map(self.split, self.projected(x))
        return self.mixed(self.merge(self.attention_weights(x, mask=mask) @ v))


LAYERS: dict[str, type[Correct]] = {"correct": Correct}


def instead_of(step: str, bug: str) -> Callable[[Any], Any]:
    """Put the layer whose `step` is the decorated function among `LAYERS`.

    It stands there under the name of the bug.
    """

    def register(wrong: Any) -> Any:
        contents = {step: wrong, "__doc__": wrong.__doc__}
        LAYERS[bug] = type(wrong.__name__, (Correct,), contents)
        return wrong

    return register


@instead_of("scale", "scale 1/√d_model")
def root_of_d_model(layer: Correct, q: Tensor) -> float:
    """The width of all heads, where a score is a sum over the width of one."""
    return layer.d_model**-0.5


@instead_of("scale", "scale 1/√n")
def root_of_n(layer: Correct, q: Tensor) -> float:
    """The wrong axis of q: its length and not its width."""
    return q.shape[-2] ** -0.5


@instead_of("scale", "no scale")
def no_scale(layer: Correct, q: Tensor) -> float:
    """Forgotten."""
    return 1.0


@instead_of("weights", "mask after softmax")
def mask_after_softmax(layer: Correct, scores: Tensor, allowed: Tensor) -> Tensor:
    """Forbidden keys are gone, but have had their share: rows no longer sum to one."""
    return sa.softmax(scores) * allowed


@instead_of("weights", "mask fills −1e-9")
def fills_too_little(layer: Correct, scores: Tensor, allowed: Tensor) -> Tensor:
    """A minus in the wrong place, -1e9 was meant: forbidden keys have the score zero."""
    return sa.softmax(torch.where(allowed, scores, -1e-9))


@instead_of("allowed", "mask inverted")
def inverted(layer: Correct, mask: Tensor) -> Tensor:
    """True meant forbidden where the mask was made."""
    return ~mask


@instead_of("allowed", "mask dropped")
def dropped(layer: Correct, mask: Tensor) -> Tensor:
    """The argument is accepted and not passed on."""
    return torch.ones_like(mask)


@instead_of("allowed", "mask one too far")
def one_too_far(layer: Correct, mask: Tensor) -> Tensor:
    """Counted from one, as in tril(diagonal=1).

    Each token sees the one that it should predict.
    """
    return mask | mask.roll(1, -1)


@instead_of("weights", "softmax over queries")
def over_queries(layer: Correct, scores: Tensor, allowed: Tensor) -> Tensor:
    """The wrong axis: columns sum to one."""
    return sa.softmax(torch.where(allowed, scores, -torch.inf), axis=-2)


@instead_of("merge", "heads not moved back")
def not_moved_back(layer: Correct, heads: Tensor) -> Tensor:
    """A reshape that fits without the transpose: a token gets parts of other tokens."""
    return heads.reshape(*heads.shape[:-3], heads.shape[-2], -1)


@instead_of("split", "heads not moved")
def not_moved(layer: Correct, x: Tensor) -> Tensor:
    """The same on the way in: a head gets some tokens whole, not a part of each."""
    return x.reshape(*x.shape[:-2], layer.num_heads, x.shape[-2], -1)


@instead_of("projected", "keys from W_Q")
def keys_from_w_q(layer: Correct, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A line copied and half edited: every score is symmetric."""
    return layer.query(x), layer.query(x), layer.value(x)


@instead_of("projected", "W_Q and W_K swapped")
def swapped(layer: Correct, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Harmless until weights come from elsewhere."""
    return layer.key(x), layer.query(x), layer.value(x)


@instead_of("mixed", "no W_O")
def no_w_o(layer: Correct, x: Tensor) -> Tensor:
    """Forgotten: the heads stay side by side."""
    return x
