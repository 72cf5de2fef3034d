"""Multi-head attention as a layer: `multi_head_attention` with parameters that learn."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..arguments import fitted
from ..arrays import describe, finite
from ..attention import attention, attention_weights, showing
from ..flash import flash_attention
from ..heads import merge_heads, split_heads
from ..masks import Mask
from . import conversion
from .cache import KVCache
from .linear import scaled_linear
from .positions import Positions


class MultiHeadAttention(torch.nn.Module):
    r"""Project, split into heads, attend in each, merge, and mix the heads, all with learned matrices.

    .. math::
        \operatorname{head}_i &= \operatorname{attention}(X W^Q_i,\; M W^K_i,\; M W^V_i) \\
        \operatorname{output} &=
            \operatorname{concat}(\operatorname{head}_1, \dots, \operatorname{head}_h)\, W^O

    (Vaswani et al. 2017, section 3.2.2.)

    - `num_kv_heads` key and value heads serve `num_heads` query heads (Ainslie et al. 2023).
    - `d_memory` is the width of the memory for cross-attention, by default `d_model`.
    - `dropout` is the share of the weights that are set to zero while training.
    - `positions` says where tokens stand: `Rotary`, `Alibi` or `RelativeBias`; only for self-attention.
    - `qk_norm`, such as `torch.nn.RMSNorm`, makes a norm for the queries and one for the keys of a head,
      given their width. It keeps scores from growing (Henry et al. 2020; Dehghani et al. 2023).

    Matrices start as normal numbers of variance 1 / fan-in (LeCun et al. 1998, section 4.6): inputs of
    variance 1 give queries and keys of variance 1, as the scale :math:`1/\sqrt{d_k}` takes for granted.
    Added biases start at zero.

    Raises `ValueError` when heads don't divide `d_model` or each other, or `dropout` isn't in [0, 1), and
    `TypeError` for widths and counts that aren't integers.

    >>> layer = MultiHeadAttention(8, num_heads=4, num_kv_heads=2)
    >>> layer(torch.ones(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        d_memory: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        positions: Positions | None = None,
        qk_norm: Callable[[int], torch.nn.Module] | None = None,
    ) -> None:
        super().__init__()
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        d_memory = d_model if d_memory is None else d_memory
        sizes = d_model, num_heads, num_kv_heads, d_memory
        seen = "d_model={}, num_heads={}, num_kv_heads={}, d_memory={}".format(*sizes)
        if not all(isinstance(size, Integral) for size in sizes):
            raise TypeError(f"widths and counts are integers; got {seen}")
        if min(sizes) < 1 or d_model % num_heads or num_heads % num_kv_heads:
            raise ValueError(f"num_heads must divide d_model, and num_kv_heads num_heads; got {seen}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is a share in [0, 1); got {dropout}")
        self.d_model, self.num_heads, self.num_kv_heads = d_model, num_heads, num_kv_heads
        self.d_memory, self.dropout, self.positions = d_memory, dropout, positions
        d_k = d_model // num_heads
        self.query = scaled_linear(d_model, d_model, bias)
        self.key = scaled_linear(d_memory, num_kv_heads * d_k, bias)
        self.value = scaled_linear(d_memory, num_kv_heads * d_k, bias)
        self.output = scaled_linear(d_model, d_model, bias)
        self.query_norm = torch.nn.Identity() if qk_norm is None else qk_norm(d_k)
        self.key_norm = torch.nn.Identity() if qk_norm is None else qk_norm(d_k)

    def forward(
        self,
        x: Float[Tensor, "*x_axes q_len d_model"],
        memory: Float[Tensor, "*memory_axes kv_len d_memory"] | None = None,
        *,
        mask: Mask | Bool[Tensor, "..."] | None = None,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "*axes q_len d_model"]:
        """What each token of `x` gathers from the tokens of `memory`, or of `x` itself without one.

        **In `mask`, True = may attend: the opposite of what `torch.nn.MultiheadAttention` means.** It is a
        `Mask`, or a boolean tensor that broadcasts to the weights ``(..., num_heads, q_len, kv_len)``.

        With a `cache`, `x` holds only the tokens that come next; the outputs are those of one pass over
        all tokens so far, if its mask forbids later ones. Positions go on, and a `Mask` is shifted along;
        a boolean tensor is for these queries and all keys so far. A memory is projected once.

        Raises `TypeError` for anything but floating-point tensors, `ValueError` for shapes that don't fit,
        for a memory when the layer has `positions`, and for a cache of another layer or memory.
        """
        with nullcontext() if cache is None else cache.step(self, x):
            q, k, v, options = self._heads(x, memory, mask, cache)
            attend = self._dropping if self.training and self.dropout else flash_attention
            return self.output(merge_heads(attend(q, k, v, **options)))

    def _dropping(self, q: Tensor, k: Tensor, v: Tensor, mask: Any, bias: Tensor | None) -> Tensor:
        """`attention` with some of its weights set to zero, and the others enlarged to make up for it."""

        def average(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
            weights = attention_weights(q, k, mask=mask, bias=bias)
            return torch.nn.functional.dropout(weights, self.dropout) @ fitted(q, k, v).v

        if finite(q, k, v, bias=bias):
            return average(q, k, v, bias)
        return showing(average, q, k, v, bias, seeing=partial(attention, mask=mask))

    def attention_weights(
        self,
        x: Float[Tensor, "*x_axes q_len d_model"],
        memory: Float[Tensor, "*memory_axes kv_len d_memory"] | None = None,
        *,
        mask: Mask | Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "*axes h q_len kv_len"]:
        """The weights by which `forward` gathers, before any dropout: one grid for each head.

        >>> MultiHeadAttention(8, 2).attention_weights(torch.ones(1, 8))
        tensor([[[1.]],
        <BLANKLINE>
                [[1.]]], grad_fn=<DivBackward0>)
        """
        q, k, _, options = self._heads(x, memory, mask)
        return attention_weights(q, k, **options)

    def _heads(
        self, x: Tensor, memory: Tensor | None, mask: Any, cache: KVCache | None = None
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
        """Queries, keys and values, and what else `attention` needs to know."""
        source = x if memory is None else memory
        if not all(isinstance(tokens, Tensor) and tokens.is_floating_point() for tokens in (x, source)):
            raise TypeError(f"expected real floating-point tensors; got {describe(x=x, memory=memory)}")
        if min(x.ndim, source.ndim) < 2 or (x.shape[-1], source.shape[-1]) != (self.d_model, self.d_memory):
            raise ValueError(
                f"expected x (..., q_len, {self.d_model}), memory (..., kv_len, {self.d_memory}), x itself "
                f"by default; got {describe(x=x, memory=memory)}"
            )
        if memory is not None and self.positions is not None:
            raise ValueError("a layer with positions compares the tokens of x; it takes no memory")
        start = 0 if cache is None else cache.length
        q = self.query_norm(split_heads(self.query(x), self.num_heads))
        if memory is not None:
            k, v = self._of_memory(memory) if cache is None else cache.of_memory(memory, self._of_memory)
        else:
            k, v = self._keys_values(x)
            if self.positions is not None:
                q, k = self.positions.turned(q, start), self.positions.turned(k, start)
            if cache is not None:
                k, v = cache.extended(k, v)
        mask = mask.shift(start) if isinstance(mask, Mask) else mask
        bias = None if self.positions is None else self.positions.bias(q, k)
        return q, k, v, {"mask": mask, "bias": bias}

    def _keys_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        k = self.key_norm(split_heads(self.key(source), self.num_kv_heads))
        return k, split_heads(self.value(source), self.num_kv_heads)

    def _of_memory(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a memory; tokens that aren't finite get NaN for both, and no part in a gradient.

        A mask may forbid them, as padding. The gradient of a matrix would still be NaN: it is 0 · NaN.
        """
        zero_or_nan = (0 * memory.detach()).sum(-1, keepdim=True)[..., None, :, :]
        k, v = self._keys_values(memory.nan_to_num(nan=0, posinf=0, neginf=0))
        return k + zero_or_nan.to(k.dtype), v + zero_or_nan.to(v.dtype)

    def extra_repr(self) -> str:
        """What a printed layer tells beyond its parts."""
        return f"num_heads={self.num_heads}, num_kv_heads={self.num_kv_heads}, dropout={self.dropout}"

    from_torch = classmethod(conversion.from_torch)
    to_torch = conversion.to_torch
