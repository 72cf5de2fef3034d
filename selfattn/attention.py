"""Attention: scores, softmax, and a weighted sum of the values."""

from collections.abc import Callable
from typing import Any

from array_api_compat import array_namespace
from jaxtyping import Float

from .arguments import fitted
from .arrays import finite, undisturbed
from .mask import Mask
from .scores import logits
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

    The result's type is the one to which q and k are promoted. Half precisions are computed in float32, also
    under torch's autocast. A NaN or an infinity makes NaN of the rows that may see it, and touches no other,
    nor its gradient.

    Raises `TypeError` for mixed libraries, integers, or a mask that isn't boolean, and `ValueError` for
    shapes that don't fit; the message names what was seen.

    >>> import numpy as np
    >>> attention_weights(np.zeros((1, 2)), np.ones((4, 2)))
    array([[0.25, 0.25, 0.25, 0.25]])
    """
    with undisturbed(q):
        q, k, _, bias, scale = fitted(q, k, None, mask, bias, scale, softcap)
        xp = array_namespace(q)
        if isinstance(mask, Mask):
            mask = mask.block(slice(0, q.shape[-2]), slice(0, k.shape[-2]), like=q)

        def weights(q: Any, k: Any, bias: Any = None) -> Any:
            return softmax(logits(q, k, scale, softcap, bias, mask))

        def sums(q: Any, k: Any, v: Any, bias: Any = None) -> Any:
            found = weights(q, k, bias)
            return found @ xp.astype(v, found.dtype, copy=False)

        if finite(q, k, bias=bias):
            return xp.astype(weights(q, k, bias), q.dtype, copy=False)
        spoilt = showing(sums, q, k, xp.zeros_like(k[..., :1]), bias)
        clean = weights(cleaned(q), cleaned(k), without_holes(bias))
        return xp.astype(clean + spoilt, q.dtype, copy=False)


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

    Options, types and errors: see `attention_weights`.

    >>> import numpy as np
    >>> q, k, v = np.zeros((1, 2)), np.ones((2, 2)), np.array([[1.0, 3.0], [5.0, 7.0]])
    >>> attention(q, k, v)
    array([[3., 5.]])
    """
    with undisturbed(q):
        q, k, v, bias, scale = fitted(q, k, v, mask, bias, scale, softcap)
        xp = array_namespace(q)
        if isinstance(mask, Mask):
            mask = mask.block(slice(0, q.shape[-2]), slice(0, k.shape[-2]), like=q)

        def average(q: Any, k: Any, v: Any, bias: Any = None) -> Any:
            weights = softmax(logits(q, k, scale, softcap, bias, mask))
            return weights @ xp.astype(v, weights.dtype, copy=False)

        plain = finite(q, k, v, bias=bias)
        output = average(q, k, v, bias=bias) if plain else showing(average, q, k, v, bias)
        return xp.astype(output, q.dtype, copy=False)


def showing(
    average: Callable[..., Any],
    q: Any,
    k: Any,
    v: Any,
    bias: Any = None,
    seeing: Callable[..., Any] | None = None,
) -> Any:
    """An average of the values in which a NaN or an infinity shows where it may be seen, and nowhere else.

    Zero times NaN is NaN: in plain products a number that isn't finite would reach outputs, and gradients,
    of queries that give it no weight. So the average is taken of what is finite; and another one, of marks on
    the rest at equal scores, finds whose outputs are to be NaN. `seeing` takes that average, where the first
    one has a feature map of its own or drops weights. Where there is a bias both take it by its name.

    >>> import numpy as np
    >>> x = np.array([[1.0], [np.nan]])
    >>> showing(lambda q, k, v: np.tri(2) @ v, x, x, x)
    array([[ 1.],
           [nan]])
    """
    xp = array_namespace(q)
    seeing, options = average if seeing is None else seeing, {}
    nothing, marks = (xp.zeros_like(q), xp.zeros_like(k)), ~xp.all(xp.isfinite(k), axis=-1, keepdims=True)
    marks = ~xp.isfinite(v) | marks
    every = xp.ones_like(xp.any(marks, axis=-1, keepdims=True))  # is marked last: values may have no width
    marks = xp.astype(xp.concat([marks, every], axis=-1), q.dtype)
    if bias is not None:
        options["bias"] = without_holes(bias)
    seen = seeing(*nothing, marks, **options) > 0
    spoilt = seen[..., :-1] | (seen[..., -1:] & ~xp.all(xp.isfinite(q), axis=-1, keepdims=True))
    if bias is not None:
        holes = xp.where(bias < xp.inf, -xp.inf, xp.zeros_like(bias))
        spoilt = spoilt | (seeing(*nothing, xp.ones_like(v), bias=holes) > 0)
    return xp.where(spoilt, xp.nan, average(cleaned(q), cleaned(k), cleaned(v), **options))


def cleaned(x: Any) -> Any:
    """Zeros in place of what isn't finite.

    >>> import numpy as np
    >>> cleaned(np.array([1.0, np.nan, -np.inf]))
    array([1., 0., 0.])
    """
    xp = array_namespace(x)
    return xp.where(xp.isfinite(x), x, 0.0)


def without_holes(bias: Any) -> Any:
    """Zeros in place of NaN and ∞ in a bias, in which -∞ has a meaning; None for None.

    >>> import numpy as np
    >>> without_holes(np.array([1.0, np.nan, -np.inf]))
    array([  1.,   0., -inf])
    """
    return None if bias is None else array_namespace(bias).where(bias < float("inf"), bias, 0.0)
