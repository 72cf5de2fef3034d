"""One tile of exact attention: in this library's own words, and in one call of torch's kernel."""

from functools import reduce
from math import prod
from typing import Any

from array_api_compat import array_namespace

from .scores import scaled_dot_product
from .softmax import Partial, average, merge, summarize
from .tiles import QUERIES, Tile

SCORES = 2**19  # held at once: few enough for a core's cache


def in_parts(
    q: Any, k: Any, v: Any, bias: Any = None, *, allowed: Any, scale: float, softcap: float | None
) -> Any:
    """A tile in this library's own words: its keys in parts, and the average over all of them."""
    xp, kv_len = array_namespace(q), k.shape[-2]
    if xp.finfo(q.dtype).bits < 32:
        wide = (x if x is None else xp.astype(x, xp.float32) for x in (q, k, v, bias))
        return xp.astype(in_parts(*wide, allowed=allowed, scale=scale, softcap=softcap), q.dtype)
    if bias is not None:
        bias = xp.broadcast_to(bias, (*bias.shape[:-2], q.shape[-2], kv_len))

    def part(keys: slice) -> Partial:
        scores = scaled_dot_product(q, k[..., keys, :], scale)
        if softcap is not None:
            scores = softcap * xp.tanh(scores / softcap)
        if bias is not None:
            finite = xp.clip(scores, max=float(xp.finfo(scores.dtype).max))  # ∞ - ∞ is NaN
            scores = finite + bias[..., keys]
        if allowed is not None:
            scores = xp.where(allowed[..., keys], scores, -xp.inf)
        return summarize(scores, v[..., keys, :])

    step = max(QUERIES, SCORES // prod(q.shape[:-1]))
    parts = (part(slice(start, min(start + step, kv_len))) for start in range(0, kv_len, step))
    return average(reduce(merge, parts))


def by_torch(tile: Tile, q: Any, k: Any, v: Any, bias: Any = None, *, allowed: Any, scale: float) -> Any:
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
