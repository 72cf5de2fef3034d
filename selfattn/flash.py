"""Exact attention in linear memory: a tile of queries at a time, over only the keys that they may see."""

from typing import Any

import numpy as np
from array_api_compat import device, is_numpy_array, is_torch_array
from jaxtyping import Float

from .arrays import describe, namespace
from .assembly import put_together, recomputing
from .attention import _fits, attention, one_head_per_query_head
from .kernels import SCORES, by_torch, in_parts, small_scores
from .mask import Mask
from .tiles import QUERIES, Tile, tiles, visible


def flash_attention(
    q: Float[Any, "*q_axes q_len d_k"],
    k: Float[Any, "*kv_axes kv_len d_k"],
    v: Float[Any, "*v_axes kv_len d_v"],
    *,
    mask: Any = None,
    bias: Any = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> Float[Any, "*axes q_len d_v"]:
    r"""What `attention` returns, without ever holding ``q_len * kv_len`` numbers.

    A tile of queries meets its keys in parts, and the softmax is put together from what they leave
    (Rabe and Staats 2021; Dao et al. 2022, algorithm 1):

    .. math:: O = \frac{\sum_p e^{m_p - m}\, w_p}{\sum_p e^{m_p - m}\, t_p}, \qquad m = \max_p m_p

    with each part's largest score m, total t and weighted values w, a `selfattn.softmax.Partial`; m is 0
    where the lengths of queries and keys say that no score is far from it. Keys outside the intervals of the
    queries (`Mask.interval`) are never touched.

    Tensors go to torch's own kernel, a call for each tile; it makes NaN of scores beyond its numbers' range,
    where `attention` doesn't. The backward pass computes every tile again, since no weights were kept, and is
    not itself differentiable. Within `torch.compile` and transforms of `torch.func`, as vmap, this is
    `attention`.

    Shapes, options and errors: see `attention` and `attention_weights`.

    >>> import numpy as np
    >>> from selfattn.masks import sliding_window
    >>> x = np.ones((100_000, 1))
    >>> flash_attention(x, x, x, mask=sliding_window(2)).shape  # the scores alone would fill 80 GB
    (100000, 1)
    """
    if _traced(q, k, v, mask, bias):
        return attention(q, k, v, mask=mask, bias=bias, scale=scale, softcap=softcap)
    k, v = _checked(q, k, v, mask, bias)
    xp = namespace(q=q)
    given = [x for x in (q, k, v, bias) if x is not None]
    dtype = xp.result_type(*given)
    q, k, v, *bias = (xp.astype(x, dtype, copy=False) for x in given)
    axes = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    q, k, v = (xp.broadcast_to(x, (*axes, *x.shape[-2:])) for x in (q, k, v))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    lo, hi, ask = visible(mask, q.shape[-2], k.shape[-2], like=q)
    kernel = is_torch_array(q) and softcap is None
    small = not (kernel or bias or 0 in k.shape) and small_scores(q, k, v, scale)

    def attend(tile: Tile, *parts: Any) -> Any:
        def allowed(keys: slice) -> Any:
            start, stop = tile.keys.start + keys.start, tile.keys.start + keys.stop
            seen = ask(tile.queries, slice(start, stop)) if ask else tile.allowed(keys)
            return None if seen is None else xp.asarray(seen, device=device(q))

        if kernel:
            return by_torch(tile, *parts, allowed=allowed, scale=scale)
        return in_parts(tile, *parts, allowed=allowed, scale=scale, softcap=softcap, small=small)

    if is_numpy_array(q) and not ask and np.any((hi - lo) * 4 * QUERIES >= SCORES):  # a head fills the cache
        lo, hi = (np.broadcast_to(bound, (*axes, lo.shape[-1])) for bound in (lo, hi))
    plan = list(tiles(lo, hi, shapes=kernel and not bias and not ask))
    assemble = recomputing() if is_torch_array(q) and len(plan) != 1 else put_together
    return assemble(attend, plan, q, k, v, *bias)


def _traced(*arguments: Any) -> bool:
    """Whether torch is compiling or transforming, as vmap does, which neither its kernel nor tiles allow."""
    tensors = [x for x in arguments if is_torch_array(x)]
    if not tensors:
        return False
    from torch._C._functorch import is_functorch_wrapped_tensor
    from torch.compiler import is_compiling

    return is_compiling() or any(map(is_functorch_wrapped_tensor, tensors))


def _checked(q: Any, k: Any, v: Any, mask: Any, bias: Any) -> list[Any]:
    """Keys and values with a head for each query head, once all arguments are known to fit."""
    k, v = one_head_per_query_head(q, k=k, v=v)
    xp = namespace(q=q, k=k, bias=bias)
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"expected q (..., q_len, d_k) and k (..., kv_len, d_k); got {describe(q=q, k=k)}")
    axes = np.broadcast_shapes(q.shape[:-2], k.shape[:-2])
    zero = xp.zeros((1, 1), dtype=q.dtype, device=device(q))
    scores = xp.broadcast_to(zero, (*axes, q.shape[-2], k.shape[-2]))  # their shape, none of their numbers
    if bias is not None:
        _fits("bias", bias, scores)
    if isinstance(mask, Mask):
        leading = mask.dense(0, 0, like=q).shape[:-2]
        mask = xp.broadcast_to(zero == 0, (*leading, *scores.shape[-2:]))
    if mask is not None:
        _fits("mask", mask, scores, boolean=True)
    return [k, v]
