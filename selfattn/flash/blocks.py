"""Tiles in this library's own words, and the output of a plan of tiles put together."""

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import pairwise
from math import prod
from typing import Any

from array_api_compat import array_namespace, device

from ..arrays import undisturbed
from ..scores import logits
from ..softmax import average, merge, summarize
from .plan import QUERIES, SCORES, Tile

SMALL = 20  # the exponentials of such scores, and of -20, are in range without taking the largest off


def attend(
    tile: Tile, q: Any, k: Any, v: Any, bias: Any, *, scale: float, softcap: float | None, small: bool
) -> Any:
    """One tile: its keys in parts, and the average over all of them.

    >>> import numpy as np
    >>> tile = Tile((), slice(0, 1), slice(0, 2), 2)
    >>> q, k, v = np.zeros((1, 1)), np.ones((2, 1)), np.array([[1.0], [3.0]])
    >>> attend(tile, q, k, v, None, scale=1.0, softcap=None, small=True)
    array([[2.]])
    """
    xp = array_namespace(q)
    wide = xp.float32 if xp.finfo(q.dtype).bits < 32 else q.dtype
    if bias is not None:
        bias = xp.broadcast_to(bias, (*bias.shape[:-2], q.shape[-2], tile.width))
    step = max(QUERIES, SCORES // max(prod(q.shape[:-1]), 1))
    cuts = [0, tile.width]
    if tile.common.stop - tile.common.start > 4 * QUERIES:  # many keys that need no mask
        cuts[1:1] = [tile.common.start, tile.common.stop]
    starts, parts = [], []
    for start, stop in pairwise(cuts):
        starts += range(start, stop, step)
    for start, stop in pairwise([*starts, tile.width]):
        keys = slice(start, stop)
        options = scale, softcap, None if bias is None else bias[..., keys], tile.allowed(keys, q)
        values = xp.astype(v[..., keys, :], wide, copy=False)
        parts.append(summarize(logits(q, k[..., keys, :], *options), values, small))  # no name holds scores
    return xp.astype(average(reduce(merge, parts)), q.dtype, copy=False)


def put_together(attend: Callable, tiles: Sequence[Tile], q: Any, k: Any, v: Any, bias: Any = None) -> Any:
    """The output, from what ``attend(tile, …)`` makes of each tile's part of the arrays."""
    if is_whole(tiles, q, k, v, bias):
        return attend(tiles[0], q, k, v, bias)
    xp, pieces = array_namespace(q), [part(tile, q, k, v, bias) for tile in tiles]
    seeing = sum(prod(parts[0].shape[:-1]) for _, parts in pieces)
    make = xp.empty if seeing == prod(q.shape[:-1]) else xp.zeros  # for queries that see nothing
    output = make((*q.shape[:-1], v.shape[-1]), dtype=q.dtype, device=device(q))
    for tile, (at, parts) in zip(tiles, pieces, strict=True):
        output[at[0]] = attend(tile, *parts)
    return output


def is_whole(tiles: Sequence[Tile], q: Any, k: Any, v: Any, bias: Any) -> bool:
    """Whether the plan is a single tile with all queries and all keys."""
    if len(tiles) != 1 or tiles[0].leading:
        return False
    return tiles[0].queries == slice(0, q.shape[-2]) and tiles[0].keys == slice(0, k.shape[-2])


def part(tile: Tile, q: Any, k: Any, v: Any, bias: Any) -> tuple[list[Any], list[Any]]:
    """Where the tile is in each array, and what is there; None where there is no bias.

    >>> import numpy as np
    >>> x = np.ones((9, 4))
    >>> at, parts = part(Tile((), slice(3, 5), slice(0, 7), 7), x, x, x, None)
    >>> at[1], parts[1].shape
    ((Ellipsis, slice(0, 7, None), slice(None, None, None)), (7, 4))
    """
    width = slice(None)
    at = [
        tile.index(q, tile.queries, width),
        tile.index(k, tile.keys, width),
        tile.index(v, tile.keys, width),
    ]
    at.append(None if bias is None else tile.index(bias, tile.queries, tile.keys))
    return at, [q[at[0]], k[at[1]], v[at[2]], None if bias is None else bias[at[3]]]


def small_scores(q: Any, k: Any, v: Any, scale: float) -> bool:
    """Whether no score is far from zero, as |q · k| ≤ |q| |k| (Cauchy, Schwarz), nor any value huge.

    >>> import numpy as np
    >>> small_scores(np.ones((2, 4)), np.ones((3, 4)), np.ones((3, 1)), scale=0.5)
    True
    """
    xp = array_namespace(q)
    if 0 in k.shape:
        return False
    with undisturbed(q):  # what overflows is not small
        queries, keys, values = xp.vecdot(q, q), xp.vecdot(k, k), xp.vecdot(v, v)
        longest = abs(scale) * xp.max(xp.sqrt(keys), axis=-1, keepdims=True)
        return bool(xp.all(xp.sqrt(queries) * longest <= SMALL)) and bool(xp.all(xp.isfinite(values)))
