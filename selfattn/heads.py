"""Several attentions side by side, each in its own subspace, joined by one matrix."""

from typing import Any

from jaxtyping import Float

from .arrays import describe, integer, namespace
from .attention import attention


def split_heads(
    x: Float[Any, "*batch n width"],
    num_heads: int,
) -> Float[Any, "*batch {num_heads} n d"]:
    """Cut the last axis into `num_heads` equal parts and make the heads an axis of their own.

    Shapes: `x` ``(..., n, h * d)``; the result ``(..., h, n, d)``. Head 0 gets the first d features.

    Raises `TypeError` when `num_heads` is no integer, `ValueError` when it doesn't divide the width.

    >>> import numpy as np
    >>> split_heads(np.arange(8.0).reshape(2, 4), 2).tolist()
    [[[0.0, 1.0], [4.0, 5.0]], [[2.0, 3.0], [6.0, 7.0]]]
    """
    xp, num_heads = namespace(x=x), integer("num_heads", num_heads)
    if x.ndim < 2 or num_heads < 1 or x.shape[-1] % num_heads:
        wanted = f"{num_heads} heads must divide the last axis of (..., n, width)"
        raise ValueError(f"{wanted}; got {describe(x=x)}")
    *batch, n, width = x.shape
    return _heads_for_length(xp.reshape(x, (*batch, n, num_heads, width // num_heads)))


def merge_heads(x: Float[Any, "*batch h n d"]) -> Float[Any, "*batch n width"]:
    """Put the heads' features side by side again: the inverse of `split_heads`.

    Shapes: `x` ``(..., h, n, d)``; the result ``(..., n, h * d)``.

    Raises `ValueError` when `x` has fewer than three axes.

    >>> import numpy as np
    >>> merge_heads(np.array([[[0.0, 1.0]], [[2.0, 3.0]]]))
    array([[0., 1., 2., 3.]])
    """
    xp = namespace(x=x)
    if x.ndim < 3:
        raise ValueError(f"expected (..., h, n, d); got {describe(x=x)}")
    *batch, heads, n, d = x.shape
    return xp.reshape(_heads_for_length(x), (*batch, n, heads * d))


def multi_head_attention(
    x: Float[Any, "*x_axes q_len d_model"],
    memory: Float[Any, "*memory_axes kv_len d_memory"],
    w_q: Any,
    w_k: Any,
    w_v: Any,
    w_o: Any,
    *,
    num_heads: int,
    num_kv_heads: int | None = None,
    b_q: Any = None,
    b_k: Any = None,
    b_v: Any = None,
    b_o: Any = None,
    mask: Any = None,
    bias: Any = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> Float[Any, "*axes q_len d_out"]:
    r"""Project, split into heads, attend in each, merge, and mix the heads.

    .. math::
        \operatorname{head}_i &= \operatorname{attention}(X W^Q_i,\; M W^K_i,\; M W^V_i) \\
        \operatorname{output} &=
            \operatorname{concat}(\operatorname{head}_1, \dots, \operatorname{head}_h)\, W^O

    (Vaswani et al. 2017, section 3.2.2.) Queries come from `x`, keys and values from `memory`: the same
    array for self-attention, another one for cross-attention.

    Shapes: `x` ``(..., q_len, d_model)``, `memory` ``(..., kv_len, d_memory)``; `w_q`
    ``(d_model, num_heads * d_k)``, `w_k` ``(d_memory, num_kv_heads * d_k)``, `w_v`
    ``(d_memory, num_kv_heads * d_v)``, `w_o` ``(num_heads * d_v, d_out)``; `b_q`, `b_k`, `b_v`, `b_o` are
    added to the four projections and are as wide as their results. The result is
    ``(..., q_len, d_out)``. `num_kv_heads`, by default `num_heads`, must divide `num_heads`.

    Raises `ValueError` when a shape or a count doesn't fit; the other options: see `attention_weights`.

    >>> import numpy as np
    >>> x, w = np.eye(4), np.eye(4)
    >>> multi_head_attention(x, x, w, w, w, w, num_heads=2).shape
    (4, 4)
    """
    weights = {"w_q": w_q, "w_k": w_k, "w_v": w_v, "w_o": w_o}
    namespace(x=x, memory=memory, **weights, b_q=b_q, b_k=b_k, b_v=b_v, b_o=b_o)
    num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    q = split_heads(_project(x, w_q, b_q, "q"), num_heads)
    k = split_heads(_project(memory, w_k, b_k, "k"), num_kv_heads)
    v = split_heads(_project(memory, w_v, b_v, "v"), num_kv_heads)
    heads = attention(q, k, v, mask=mask, bias=bias, scale=scale, softcap=softcap)
    return _project(merge_heads(heads), w_o, b_o, "o")


def _heads_for_length(x: Any) -> Any:
    """Swap these two axes: ``(..., a, b, d)`` to ``(..., b, a, d)``. Unlike moveaxis, torch can vmap it."""
    *batch, a, b, d = range(x.ndim)
    return namespace(x=x).permute_dims(x, (*batch, b, a, d))


def _project(x: Any, w: Any, b: Any, name: str) -> Any:
    if w.ndim < 2 or x.shape[-1] != w.shape[-2] or (b is not None and b.shape[-1:] != w.shape[-1:]):
        raise ValueError(
            f"w_{name} needs as many rows as its input is wide, b_{name} as many entries as w_{name} has "
            f"columns; got {describe(**{'input': x, f'w_{name}': w, f'b_{name}': b})}"
        )
    return x @ w if b is None else x @ w + b
