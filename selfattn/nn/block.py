"""The Transformer's block: attention and a feed-forward map, each joined to what it was given."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..masks import Mask
from .linear import scaled_linear

Connect = Callable[[Tensor, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]], Tensor]


def pre_norm(x: Tensor, part: Callable[[Tensor], Tensor], norm: Callable[[Tensor], Tensor]) -> Tensor:
    r"""A part reads a normalized copy and adds to its input: what it is given runs through untouched.

    .. math:: y = x + \operatorname{part}(\operatorname{norm}(x))

    (Radford et al. 2019, section 2.3; Xiong et al. 2020.) The sum grows from block to block, so a model of
    such blocks ends with a norm.

    >>> pre_norm(torch.tensor([3.0]), part=torch.neg, norm=torch.sign)
    tensor([2.])
    """
    return x + part(norm(x))


def post_norm(x: Tensor, part: Callable[[Tensor], Tensor], norm: Callable[[Tensor], Tensor]) -> Tensor:
    r"""A part adds to its input, and the sum is normalized.

    .. math:: y = \operatorname{norm}(x + \operatorname{part}(x))

    (Vaswani et al. 2017, section 3.1.)

    >>> post_norm(torch.tensor([3.0]), part=torch.neg, norm=torch.sign)
    tensor([0.])
    """
    return norm(x + part(x))


class FeedForward(torch.nn.Module):
    r"""The same two-layer network at each token: `d_ff` features, 4·d_model by default, through a GELU.

    .. math:: \operatorname{feed\_forward}(x) = \operatorname{GELU}(x W_1 + b_1)\, W_2 + b_2

    (Vaswani et al. 2017, section 3.3, with a ReLU; Hendrycks & Gimpel 2016 propose the GELU.) Matrices start
    as in `MultiHeadAttention`.

    >>> FeedForward(8)(torch.ones(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    """

    def __init__(self, d_model: int, d_ff: int | None = None) -> None:
        super().__init__()
        d_ff = 4 * d_model if d_ff is None else d_ff
        self.hidden = scaled_linear(d_model, d_ff)
        self.output = scaled_linear(d_ff, d_model)

    def forward(self, x: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes d_model"]:
        """Each token's features, mixed."""
        return self.output(torch.nn.functional.gelu(self.hidden(x)))


class Block(torch.nn.Module):
    r"""Tokens gather from each other by `attention`; then `feed_forward`, if any, works on each alone.

    .. math:: y = \operatorname{connect}(x, \operatorname{attention}, \operatorname{norm}_1), \qquad
              z = \operatorname{connect}(y, \operatorname{feed\_forward}, \operatorname{norm}_2)

    (Vaswani et al. 2017, section 3.1.) The block is given its parts, and an ablation gives others:

    - `attention` is called as ``attention(x, mask=mask)`` and has a `d_model`: a `MultiHeadAttention`.
    - `feed_forward` is any module from tokens to tokens.
    - `connect` is `pre_norm` or `post_norm`. Without the skip connection it would be
      ``lambda x, part, norm: part(norm(x))``.
    - `norm` makes a norm, given `d_model`; ``torch.nn.Identity`` makes none.

    >>> from selfattn.nn import MultiHeadAttention
    >>> block = Block(MultiHeadAttention(8, 2), FeedForward(8), connect=post_norm)
    >>> block(torch.ones(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    """

    def __init__(
        self,
        attention: torch.nn.Module,
        feed_forward: torch.nn.Module | None = None,
        *,
        connect: Connect = pre_norm,
        norm: Callable[[int], torch.nn.Module] = torch.nn.LayerNorm,
    ) -> None:
        super().__init__()
        self.d_model = attention.d_model
        self.connect = connect
        self.attention, self.attention_norm = attention, norm(self.d_model)
        self.feed_forward = feed_forward
        self.feed_forward_norm = None if feed_forward is None else norm(self.d_model)

    def forward(
        self, x: Float[Tensor, "*axes n d_model"], *, mask: Mask | Bool[Tensor, "..."] | None = None
    ) -> Float[Tensor, "*axes n d_model"]:
        """The tokens after one block. **In `mask`, True = may attend**, as in `MultiHeadAttention`."""
        x = self.connect(x, lambda tokens: self.attention(tokens, mask=mask), self.attention_norm)
        if self.feed_forward is None:
            return x
        return self.connect(x, self.feed_forward, self.feed_forward_norm)

    def extra_repr(self) -> str:
        """What a printed block tells beyond its parts."""
        return f"connect={getattr(self.connect, '__name__', self.connect)}"
