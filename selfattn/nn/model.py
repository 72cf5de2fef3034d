"""A whole model of blocks: tokens in, logits out."""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..masks import Mask
from .linear import scaled_linear


class Transformer(torch.nn.Module):
    r"""Embed tokens, run them through blocks, and read logits off each of them.

    .. math:: \operatorname{logits} = \operatorname{norm}(
              \operatorname{block}_L(\dots \operatorname{block}_1(E_{\operatorname{tokens}} + P))) \, W + b

    (Radford et al. 2019; with the mask `causal` it is a language model.) All blocks have one width.

    - `positions` adds to the embeddings where they stand: `Learned` or `Sinusoidal`. By default nothing is
      added: the order may be known to the attention layers (`Rotary`, `Alibi`, `RelativeBias`) or to none.
    - `norm` makes the last norm, given the width. After blocks of `post_norm` ``torch.nn.Identity`` will do.

    The parts `embedding`, `positions`, `blocks`, `norm`, `readout` can be replaced by others. Embeddings
    start with variance 1, the readout's matrix as in `MultiHeadAttention`. Raises `ValueError` without blocks
    and for blocks of different widths.

    >>> import selfattn as sa
    >>> from selfattn.nn import Block, FeedForward, Learned, MultiHeadAttention
    >>> blocks = [Block(MultiHeadAttention(8, 2), FeedForward(8)) for _ in range(2)]
    >>> model = Transformer(vocabulary=10, blocks=blocks, positions=Learned(64, 8))
    >>> model(torch.arange(5), mask=sa.causal).shape
    torch.Size([5, 10])
    """

    def __init__(
        self,
        vocabulary: int,
        blocks: Iterable[torch.nn.Module],
        *,
        positions: torch.nn.Module | None = None,
        norm: Callable[[int], torch.nn.Module] = torch.nn.LayerNorm,
    ) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(blocks)
        widths = [block.d_model for block in self.blocks]
        if len({*widths}) != 1:
            raise ValueError(f"expected one or more blocks of one d_model; got {widths}")
        self.d_model = widths[0]
        self.embedding = torch.nn.Embedding(vocabulary, self.d_model)
        self.positions = torch.nn.Identity() if positions is None else positions
        self.norm = norm(self.d_model)
        self.readout = scaled_linear(self.d_model, vocabulary)

    def forward(
        self, tokens: Int[Tensor, "*axes n"], *, mask: Mask | Bool[Tensor, "..."] | None = None
    ) -> Float[Tensor, "*axes n vocabulary"]:
        """The logits at each token. **In `mask`, True = may attend**, as in `MultiHeadAttention`."""
        x = self.positions(self.embedding(tokens))
        for block in self.blocks:
            x = block(x, mask=mask)
        return self.readout(self.norm(x))
