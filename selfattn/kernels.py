"""One tile of exact attention: in this library's own words, and in one call of torch's kernel."""

from collections.abc import Callable
from functools import reduce
from itertools import chain, pairwise
from math import prod
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from .scores import scaled_dot_product
from .softmax import Partial, average, merge, summarize
from .tiles import QUERIES, Tile

SCORES = 2**19  # held at once: few enough for a core's cache
SMALL = 20  # the exponentials of such scores, and of -20, are in range without taking the largest off


def in_parts(
    tile: Tile,
    q: Any,
    k: Any,
    v: Any,
    bias: Any = None,
    *,
    allowed: Callable[[slice], Any],
    scale: float,
    softcap: float | None,
    small: bool,
) -> Any:
    """A tile in this library's own words: its keys in parts, and the average over all of them."""
    xp = array_namespace(q)
    if xp.finfo(q.dtype).bits < 32:
        wide = (x if x is None else xp.astype(x, xp.float32) for x in (q, k, v, bias))
        output = in_parts(tile, *wide, allowed=allowed, scale=scale, softcap=softcap, small=small)
        return xp.astype(output, q.dtype)
    if bias is not None:
        bias = xp.broadcast_to(bias, (*bias.shape[:-2], q.shape[-2], tile.width))

    def part(keys: slice) -> Partial:
        scores = scaled_dot_product(q, k[..., keys, :], scale)
        if softcap is not None:
            scores = softcap * xp.tanh(scores / softcap)
        if bias is not None:
            finite = xp.clip(scores, max=float(xp.finfo(scores.dtype).max))  # ∞ - ∞ is NaN
            scores = finite + bias[..., keys]
        seen = allowed(keys)
        if seen is not None:
            scores = xp.where(seen, scores, -xp.inf)
        return summarize(scores, v[..., keys, :], small=small)

    step = max(QUERIES, SCORES // prod(q.shape[:-1]))
    first, behind = tile.seen_by_all()
    cuts = [0, tile.width]
    if behind - first > 4 * QUERIES:  # many keys that need no mask
        cuts[1:1] = [first, behind]
    starts = chain(*(range(start, stop, step) for start, stop in pairwise(cuts)))
    return average(reduce(merge, (part(slice(*ends)) for ends in pairwise([*starts, tile.width]))))


def small_scores(q: Any, k: Any, v: Any, scale: float) -> bool:
    """Whether no score is far from zero, as |q · k| ≤ |q| |k| (Cauchy, Schwarz), nor any value huge."""
    xp = array_namespace(q)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is not small
        q, k, v = (xp.vecdot(x, x) for x in (scale * q, k, v))
        longest = xp.max(xp.sqrt(k), axis=-1, keepdims=True)
        return bool(xp.all(xp.sqrt(q) * longest <= SMALL)) and bool(xp.all(xp.isfinite(v)))


def by_torch(tile: Tile, q: Any, k: Any, v: Any, bias: Any = None, *, allowed: Callable, scale: float) -> Any:
    """A tile in one call of torch's kernel, whose axes are here: leading ones, blocks, length, width."""
    import torch
    from torch.nn.functional import pad, scaled_dot_product_attention

    *axes, rows, d_k = q.shape
    queries, keys, d_v = rows // tile.blocks, tile.width, v.shape[-1]
    seen = allowed(slice(0, keys))
    if seen is not None:
        bias = torch.where(seen, q.new_zeros(()) if bias is None else bias, -torch.inf)
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
