"""How a model learns where its tokens stand: turned queries and keys, biased scores, added vectors."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..arrays import describe
from ..positions import alibi, relative_buckets, rotary, sinusoidal


class Positions(torch.nn.Module):
    """What `MultiHeadAttention` asks of its `positions`; this one leaves everything as it is.

    A subclass overrides either method. Layers that are given the same object share its parameters.
    """

    def turned(self, x: Float[Tensor, "*batch n d_k"], start: int) -> Float[Tensor, "*batch n d_k"]:
        """The queries, or the keys, of the tokens from position `start` on."""
        return x

    def bias(self, q: Float[Tensor, "*batch h q_len d_k"], k: Float[Tensor, "*batch g kv_len d_k"]) -> Any:
        """What to add to the scores: None, or a bias ``(h, q_len, kv_len)``. The queries stand last."""
        return None


class Rotary(Positions):
    """Queries and keys turned by angles that grow with the position (Su et al. 2024): see `rotary`.

    >>> Rotary(base=500000.0).turned(torch.ones(1, 2), start=0)
    tensor([[1., 1.]])
    """

    def __init__(
        self, base: float = 10000.0, *, interleaved: bool = False, rotary_dim: int | None = None
    ) -> None:
        super().__init__()
        self.options = {"base": base, "interleaved": interleaved, "rotary_dim": rotary_dim}

    def turned(self, x: Float[Tensor, "*batch n d_k"], start: int) -> Float[Tensor, "*batch n d_k"]:
        """See `Positions`."""
        return rotary(x, torch.arange(start, start + x.shape[-2], device=x.device), **self.options)


class Alibi(Positions):
    """Scores that fall with the distance, at a fixed slope in each head (Press et al. 2022): see `alibi`.

    >>> Alibi().bias(torch.ones(2, 1, 4), torch.ones(2, 3, 4))[0, :, :2]
    tensor([[-0.1250, -0.0625]])
    """

    def bias(self, q: Float[Tensor, "*batch h q_len d_k"], k: Float[Tensor, "*batch g kv_len d_k"]) -> Any:
        """See `Positions`."""
        num_heads = int(q.shape[-3])  # torch.jit.trace hands out tensors
        return alibi(num_heads, q.shape[-2], k.shape[-2], like=q)


class RelativeBias(Positions):
    """A learned number for each head and bucket of distances (Raffel et al. 2020): see `relative_buckets`.

    The table ``(num_heads, num_buckets)`` starts at zero: at first all distances are alike.

    >>> RelativeBias(2).bias(torch.ones(2, 1, 4), torch.ones(2, 3, 4)).shape
    torch.Size([2, 1, 3])
    """

    def __init__(
        self,
        num_heads: int,
        *,
        num_buckets: int = 32,
        max_distance: int = 128,
        bidirectional: bool = True,
    ) -> None:
        super().__init__()
        self.options = {
            "num_buckets": num_buckets,
            "max_distance": max_distance,
            "bidirectional": bidirectional,
        }
        self.table = torch.nn.Parameter(torch.zeros(num_heads, num_buckets))

    def bias(self, q: Float[Tensor, "*batch h q_len d_k"], k: Float[Tensor, "*batch g kv_len d_k"]) -> Any:
        """See `Positions`."""
        buckets = relative_buckets(q.shape[-2], k.shape[-2], like=q, **self.options)
        return self.table[:, buckets].to(q.dtype)


class Learned(torch.nn.Module):
    """Embeddings plus a learned vector for each of the first `n` positions (Gehring et al. 2017).

    The table ``(n, d_model)`` starts as normal numbers of variance 1, like embeddings. Raises `ValueError`
    for more tokens than it has positions.

    >>> Learned(64, 8)(torch.ones(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    """

    def __init__(self, n: int, d_model: int) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.randn(n, d_model))

    def forward(
        self,
        x: Float[Tensor, "*batch n d_model"],
    ) -> Float[Tensor, "*batch n d_model"]:
        """The embeddings of tokens that stand at 0, 1, …, with their positions in them."""
        if x.shape[-2] > len(self.table):
            have = len(self.table)
            raise ValueError(f"there are {have} positions; got {describe(x=x)}")
        return x + self.table[: x.shape[-2]]


class Sinusoidal(torch.nn.Module):
    """Embeddings plus sines and cosines of the position, fixed (Vaswani et al. 2017): see `sinusoidal`.

    >>> Sinusoidal()(torch.zeros(1, 4))
    tensor([[0., 1., 0., 1.]])
    """

    def forward(self, x: Float[Tensor, "*batch n d_model"]) -> Float[Tensor, "*batch n d_model"]:
        """The embeddings of tokens that stand at 0, 1, …, with their positions in them."""
        return x + sinusoidal(*x.shape[-2:], like=x)
