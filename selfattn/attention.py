"""Attention: scores, softmax, and a weighted sum of the values."""

from itertools import combinations, pairwise, zip_longest
from typing import Any

from jaxtyping import Float

from .arrays import broadcasts, describe, is_array, namespace
from .mask import Mask
from .scores import scaled_dot_product
from .softmax import softmax


def attention_weights(
    q: Float[Any, "*q_axes q_len d_k"],
    k: Float[Any, "*kv_axes kv_len d_k"],
    *,
    mask: Any = None,
    bias: Any = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> Float[Any, "*axes q_len kv_len"]:
    r"""How much each query attends to each key: rows that sum to one.

    .. math:: A = \operatorname{softmax}\Bigl(\frac{Q K^\top}{\sqrt{d_k}} + B\Bigr)

    (Vaswani et al. 2017, eq. 1.)

    Shapes: `q` ``(*batch, heads, q_len, d_k)`` with any leading axes, none too; `k`
    ``(*batch, kv_heads, kv_len, d_k)``, where `kv_heads` divides `heads`: each key head then serves a
    group of query heads (Ainslie et al. 2023). The result is ``(*batch, heads, q_len, kv_len)``.

    - `mask`: a `Mask`, or a boolean array that broadcasts to the result. **True = may attend.** A query
      that may attend nowhere gets a row of zeros.
    - `bias`: added to the scaled scores; ``-inf`` in it counts as forbidden.
    - `scale`: a number, by default :math:`1/\sqrt{d_k}`.
    - `softcap`: a positive number c; the scaled scores become :math:`c \tanh(s/c)` before bias and mask
      (Gemma Team 2024).

    Raises `TypeError` for mixed libraries, integers, or a mask that isn't boolean, and `ValueError` for
    shapes that don't fit; the message names what was seen.

    >>> import numpy as np
    >>> attention_weights(np.zeros((1, 2)), np.ones((4, 2)))
    array([[0.25, 0.25, 0.25, 0.25]])
    """
    xp = namespace(q=q, k=k, bias=bias)
    (k,) = one_head_per_query_head(q, k=k)
    scores = scaled_dot_product(q, k, scale)
    if softcap is not None:
        scores = softcap * xp.tanh(scores / softcap)
    if bias is not None:
        finite = xp.clip(scores, max=float(xp.finfo(scores.dtype).max))  # ∞ - ∞ is NaN
        scores = finite + _fits("bias", bias, scores)
    if isinstance(mask, Mask):
        mask = mask.dense(*scores.shape[-2:], like=scores)
    if mask is not None:
        scores = xp.where(_fits("mask", mask, scores, boolean=True), scores, -xp.inf)
    return softmax(scores)


def attention(
    q: Float[Any, "*q_axes q_len d_k"],
    k: Float[Any, "*kv_axes kv_len d_k"],
    v: Float[Any, "*v_axes kv_len d_v"],
    *,
    mask: Any = None,
    bias: Any = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> Float[Any, "*axes q_len d_v"]:
    r"""Each query's weighted average of the values.

    .. math:: \operatorname{attention}(Q, K, V)
              = \operatorname{softmax}\Bigl(\frac{Q K^\top}{\sqrt{d_k}}\Bigr) V

    (Vaswani et al. 2017, eq. 1.)

    Shapes: as in `attention_weights`; `v` ``(*batch, kv_heads, kv_len, d_v)``; the result
    ``(*batch, heads, q_len, d_v)``. A query that may attend nowhere gets zeros.

    Options and errors: see `attention_weights`.

    >>> import numpy as np
    >>> q, k, v = np.zeros((1, 2)), np.ones((2, 2)), np.array([[1.0, 3.0], [5.0, 7.0]])
    >>> attention(q, k, v)
    array([[3., 5.]])
    """
    k, v = one_head_per_query_head(q, k=k, v=v)
    return attention_weights(q, k, mask=mask, bias=bias, scale=scale, softcap=softcap) @ v


def one_head_per_query_head(q: Any, **shared: Any) -> list[Any]:
    """Repeat key and value heads so that each query head finds its group's own at its index.

    Raises `ValueError` when the lengths differ or batch or head axes don't fit; the message names the shapes.

    >>> import numpy as np
    >>> (k,) = one_head_per_query_head(np.zeros((4, 1, 1)), k=np.array([[[1.0]], [[2.0]]]))
    >>> k.tolist()
    [[[1.0]], [[1.0]], [[2.0]], [[2.0]]]
    """
    xp = namespace(q=q, **shared)
    if any(x.ndim < 2 for x in (q, *shared.values())):
        raise ValueError(f"expected at least two axes, (..., length, width); got {describe(q=q, **shared)}")
    if any(x.shape[-2] != y.shape[-2] for x, y in pairwise(shared.values())):
        raise ValueError(f"expected as many values as keys; got {describe(**shared)}")
    batch = zip_longest(*(x.shape[-4::-1] for x in (q, *shared.values())), fillvalue=1)
    if any(a != b and a != 1 and b != 1 for sizes in batch for a, b in combinations(sizes, 2)):
        raise ValueError(f"batch axes must broadcast; got {describe(q=q, **shared)}")
    heads = [x.shape[-3] if x.ndim > 2 else 1 for x in (q, *shared.values())]
    if any(count == 0 or heads[0] % count for count in heads[1:]):
        raise ValueError(f"key and value heads must divide the query heads; got {describe(q=q, **shared)}")
    return [
        x if count in (1, heads[0]) else xp.repeat(x, heads[0] // count, axis=-3)
        for x, count in zip(shared.values(), heads[1:], strict=True)
    ]


def _fits(name: str, array: Any, scores: Any, boolean: bool = False) -> Any:
    """`array` itself, once it is known to broadcast to the scores."""
    if boolean and not is_array(array, namespace(scores=scores), "bool"):
        raise TypeError(
            "a mask is a Mask or a boolean array (True = may attend) of the scores' library; "
            f"got {describe(scores=scores, mask=array)}"
        )
    if not broadcasts(array, scores.shape):
        raise ValueError(
            f"{name} must broadcast to the scores {tuple(scores.shape)}; got {describe(**{name: array})}"
        )
    return array
