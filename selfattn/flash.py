"""Exact attention in linear memory: a tile of queries at a time, over only the keys that they may see."""

from collections.abc import Callable, Sequence
from functools import cache, reduce
from math import prod
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_numpy_array, is_torch_array
from jaxtyping import Float

from .arrays import describe, namespace
from .attention import _fits, attention, one_head_per_query_head
from .masks import Mask
from .scores import scaled_dot_product
from .softmax import Partial, average, merge, summarize
from .tiles import QUERIES, Tile, tiles, visible

SCORES = 2**19  # held at once: few enough for a core's cache


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

    with each part's largest score m, total t and weighted values w, a `selfattn.softmax.Partial`. Keys
    outside the queries' intervals (`Mask.interval`) are never touched. Tensors go to torch's own kernel, a
    call for each tile; the backward pass computes every tile again, since no weights were kept, and is not
    itself differentiable. Within `torch.compile` and the transforms of `torch.func`, such as vmap, this is
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

    def attend(tile: Tile, *parts: Any) -> Any:
        allowed = ask(tile.queries, tile.keys) if ask else tile.allowed()
        allowed = None if allowed is None else xp.asarray(allowed, device=device(q))
        if kernel:
            return _by_torch(tile, *parts, allowed=allowed, scale=scale)
        return _in_parts(*parts, allowed=allowed, scale=scale, softcap=softcap)

    if is_numpy_array(q) and not ask and np.any((hi - lo) * 4 * QUERIES >= SCORES):  # a head fills the cache
        lo, hi = (np.broadcast_to(bound, (*axes, lo.shape[-1])) for bound in (lo, hi))
    plan = list(tiles(lo, hi, shapes=kernel and not bias and not ask))
    put_together = _recomputing() if is_torch_array(q) and len(plan) != 1 else _put_together
    return put_together(attend, plan, q, k, v, *bias)


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


def _in_parts(
    q: Any, k: Any, v: Any, bias: Any = None, *, allowed: Any, scale: float, softcap: float | None
) -> Any:
    """A tile in this library's own words: its keys in parts, and the average over all of them."""
    xp, kv_len = array_namespace(q), k.shape[-2]
    if xp.finfo(q.dtype).bits < 32:
        wide = (x if x is None else xp.astype(x, xp.float32) for x in (q, k, v, bias))
        return xp.astype(_in_parts(*wide, allowed=allowed, scale=scale, softcap=softcap), q.dtype)
    if bias is not None:
        bias = xp.broadcast_to(bias, (*bias.shape[:-2], q.shape[-2], kv_len))

    def part(keys: slice) -> Partial:
        scores = scaled_dot_product(q, k[..., keys, :], scale)
        if softcap is not None:
            scores = softcap * xp.tanh(scores / softcap)
        if bias is not None:
            scores = scores + bias[..., keys]
        if allowed is not None:
            scores = xp.where(allowed[..., keys], scores, -xp.inf)
        return summarize(scores, v[..., keys, :])

    step = max(QUERIES, SCORES // prod(q.shape[:-1]))
    parts = (part(slice(start, min(start + step, kv_len))) for start in range(0, kv_len, step))
    return average(reduce(merge, parts))


def _by_torch(tile: Tile, q: Any, k: Any, v: Any, bias: Any = None, *, allowed: Any, scale: float) -> Any:
    """A tile in one call of torch's kernel, whose axes are here: leading ones, blocks, length, width."""
    import torch
    from torch.nn.functional import pad, scaled_dot_product_attention

    *axes, rows, d_k = q.shape
    queries, keys, d_v = rows // tile.blocks, tile.width, v.shape[-1]
    if allowed is not None:
        bias = torch.where(allowed, q.new_zeros(()) if bias is None else bias, -torch.inf)
    if bias is not None:
        bias = bias.expand(*(axes if bias.ndim > 2 else ()), queries, keys)
        bias = bias.reshape(-1, 1, queries, keys) if bias.ndim > 2 else bias
    if d_k != d_v:  # the kernel knows a single width
        q, k, v = (pad(x, (0, max(d_k, d_v) - x.shape[-1])) for x in (q, k, v))
    before = keys - queries if tile.causal else 0  # keys that the first query sees besides its own
    q = pad(q, (0, 0, before, 0)) if before else q
    q = q.reshape(-1, tile.blocks, before + queries, q.shape[-1])
    k, v = (x.reshape(-1, *x.shape[-2:]) for x in (k, v))
    k, v = (x[:, None] if tile.blocks == 1 else x.unfold(-2, keys, queries).mT for x in (k, v))
    output = scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=tile.causal, scale=scale)
    return output[..., before:, :d_v].reshape(*axes, rows, d_v)


def _indices(tile: Tile, q: Any, k: Any, v: Any, *bias: Any) -> list[tuple[Any, ...]]:
    """Where the tile is in each array."""
    width = slice(None)
    return [
        tile.index(q, tile.queries, width),
        tile.index(k, tile.keys, width),
        tile.index(v, tile.keys, width),
        *(tile.index(x, tile.queries, tile.keys) for x in bias),
    ]


def _put_together(attend: Callable, plan: Sequence[Tile], q: Any, k: Any, v: Any, *bias: Any) -> Any:
    """The output, tile by tile; zeros where no tile is."""
    output = array_namespace(q).zeros((*q.shape[:-1], v.shape[-1]), dtype=q.dtype, device=device(q))
    for tile in plan:
        at, *_ = indices = _indices(tile, q, k, v, *bias)
        output[at] = attend(tile, *(x[at] for x, at in zip((q, k, v, *bias), indices, strict=True)))
    return output


@cache
def _recomputing() -> Callable:
    """`_put_together` with a backward pass that computes each tile again."""
    import torch

    class Recomputing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, attend: Callable, plan: Sequence[Tile], *arrays: Any) -> Any:
            ctx.attend, ctx.plan = attend, plan
            ctx.save_for_backward(*arrays)
            return _put_together(attend, plan, *arrays)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, gradient: Any) -> tuple[Any, ...]:
            arrays, wanted = ctx.saved_tensors, ctx.needs_input_grad[2:]
            totals = [torch.zeros_like(x) if want else None for x, want in zip(arrays, wanted, strict=True)]
            for tile in ctx.plan:
                indices = _indices(tile, *arrays)
                parts = [
                    x[at].detach().requires_grad_(want)
                    for x, at, want in zip(arrays, indices, wanted, strict=True)
                ]
                with torch.enable_grad():
                    ctx.attend(tile, *parts).backward(gradient[indices[0]])
                for total, at, part in zip(totals, indices, parts, strict=True):
                    if part.requires_grad:
                        total[at] += part.grad
            return None, None, *totals

    return Recomputing.apply
