"""What `attention` and its kin accept: every check in one place, each error with what it saw."""

from typing import Any, NamedTuple

from .arrays import broadcasts, describe, is_array, joined, namespace, number
from .mask import Mask
from .scores import default_scale


class Fitted(NamedTuple):
    """Arguments that fit: q, k and v of one type, with a head of keys and values for each head of queries."""

    q: Any
    k: Any
    v: Any
    bias: Any
    scale: float


def fitted(
    q: Any,
    k: Any,
    v: Any = None,
    mask: Any = None,
    bias: Any = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> Fitted:
    """The arguments of attention, checked and brought to one type, keys and values repeated for all heads.

    Different floating types are promoted to their common one, which is then the result's. A bias doesn't
    count: it takes on the type in which scores are computed, that type or float32.

    Raises `TypeError` for mixed libraries, integers, a mask that isn't boolean, or a scale or softcap that is
    no number, and `ValueError` for shapes that don't fit, or a softcap that isn't positive.

    >>> import numpy as np
    >>> q, k = np.ones((4, 1, 2), np.float32), np.ones((2, 3, 2))
    >>> fitted(q, k).k.shape, fitted(q, k).q.dtype
    ((4, 3, 2), dtype('float64'))
    """
    xp = namespace(q=q, k=k, v=v, bias=bias)
    arrays = (q, k) if v is None else (q, k, v)
    if min(q.ndim, k.ndim, arrays[-1].ndim) < 2:
        seen = describe(q=q, k=k, v=v)
        raise ValueError(f"expected at least two axes, (..., length, width); got {seen}")
    if k.shape[-2] != arrays[-1].shape[-2]:
        raise ValueError(f"expected as many values as keys; got {describe(k=k, v=v)}")
    if max(q.ndim, k.ndim, arrays[-1].ndim) > 3:
        try:
            joined(q.shape[:-3], k.shape[:-3], arrays[-1].shape[:-3])
        except ValueError:
            raise ValueError(f"batch axes must broadcast; got {describe(q=q, k=k, v=v)}") from None

    same, full = q.dtype == k.dtype == arrays[-1].dtype, []
    dtype = q.dtype if same else xp.result_type(*arrays)  # which torch can't compile for half precisions
    heads = q.shape[-3] if q.ndim > 2 else 1
    for x in arrays:
        count = x.shape[-3] if x.ndim > 2 else 1
        if count != heads and (count == 0 or heads % count):
            seen = describe(q=q, k=k, v=v)
            raise ValueError(f"key and value heads must divide the query heads; got {seen}")
        x = x if count in (1, heads) else xp.repeat(x, heads // count, axis=-3)
        full.append(xp.astype(x, dtype, copy=False))
    q, k = full[0], full[1]

    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"expected q (..., q_len, d_k) and k (..., kv_len, d_k); got {describe(q=q, k=k)}")
    if softcap is not None:
        number("softcap", softcap, positive=True)
    if isinstance(mask, Mask):
        if mask.leading:
            _check_fit((*mask.leading, 1, 1), q, k, mask=mask)
    elif mask is not None:
        if not is_array(mask, xp, "bool"):
            raise TypeError(
                "a mask is a Mask or a boolean array (True = may attend) of the queries' library; "
                f"got {describe(q=q, mask=mask)}"
            )
        _check_fit(mask.shape, q, k, mask=mask)
    if bias is not None:
        _check_fit(bias.shape, q, k, bias=bias)
        if bias.dtype != dtype:
            bias = xp.astype(bias, xp.float32 if xp.finfo(dtype).bits < 32 else dtype)
    scale = default_scale(q) if scale is None else number("scale", scale)
    return Fitted(q, k, None if v is None else full[2], bias, scale)


def _check_fit(shape: tuple, q: Any, k: Any, **option: Any) -> None:
    scores = (*joined(q.shape[:-2], k.shape[:-2]), q.shape[-2], k.shape[-2])
    if not broadcasts(shape, scores):
        ((name, given),) = option.items()
        seen = f"mask {given}" if isinstance(given, Mask) else describe(**option)
        raise ValueError(f"{name} must broadcast to the scores {scores}; got {seen}")
