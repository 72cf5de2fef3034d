"""Which queries see which keys, cut into tiles that can be computed one after the other."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device, is_numpy_array

from ..mask import END, Interval, Mask

QUERIES = 64  # in a block of a band, and the fewest in a tile
SPAN = 2**16  # keys that the blocks of a band may see, each counted once for every block that sees it
SCORES = 2**19  # held at once: few enough for a core's cache
TILE = 2**18  # scores of one head that are computed in the time that a tile takes besides its scores
GROUP = 2**22  # entries of a mask that may be held, to compute many short sequences as one tile


class Tile(NamedTuple):
    """Some queries and the keys that they see, as slices of the axes of the scores.

    `blocks` is 1, or the number of equal blocks of queries in a band: each block sees `width` keys, those of
    the next one just so many further on as it has queries. In a `causal` tile the last query sees all keys,
    and every other one sees one key less than the next. `bounds` has the interval of each query of the first
    block, counted from the first key, ``(queries, 1)`` both, and `common` the keys that are in all of them.
    `rule` says which pairs are allowed where bounds don't tell. Without either all see all, unless the tile
    is causal.
    """

    leading: tuple[slice, ...]
    queries: slice
    keys: slice
    width: int
    blocks: int = 1
    causal: bool = False
    bounds: tuple[np.ndarray, np.ndarray] | None = None
    rule: Mask | None = None
    common: slice = slice(0, 0)

    def allowed(self, keys: slice, like: Any) -> Any:
        """Who sees whom in the first block, ``(..., queries, keys)``; None where all see all of these keys.

        A boolean array in the library and on the device of `like`.
        """
        if self.rule is not None:
            start = self.keys.start
            return self.rule.block(self.queries, slice(start + keys.start, start + keys.stop), like)
        if self.bounds is None or (self.common.start <= keys.start and keys.stop <= self.common.stop):
            return None
        (lo, hi), j = self.bounds, np.arange(keys.start, keys.stop)
        return array_namespace(like).asarray((lo <= j) & (j < hi), device=device(like))

    def index(self, array: Any, *last: slice) -> tuple[Any, ...]:
        """Where the tile is in an array that broadcasts: along the leading axes and at the `last` slices.

        >>> tile = Tile((slice(2, 3),), slice(0, 64), slice(0, 9), 9)
        >>> tile.index(np.ones((1, 64, 99)), tile.queries, tile.keys)
        (Ellipsis, slice(None, None, None), slice(0, 64, None), slice(0, 9, None))
        """
        at = []
        for size, part in zip(array.shape[::-1], (*self.leading, *last)[::-1], strict=False):
            at.append(slice(None) if size == 1 else part)
        return (..., *at[::-1])


def plan_tiles(mask: Any, axes: tuple, q_len: int, kv_len: int, *, like: Any, shapes: bool) -> list[Tile]:
    """Tiles that together hold every pair that the mask allows, for queries whose leading axes are `axes`.

    `mask` is a `Mask`, a boolean array or None, `like` an array of the library that computes. Where `shapes`
    is true, it computes tiles of every shape: see `tiles`.

    >>> from selfattn.masks import causal
    >>> len(plan_tiles(causal, (), 1000, 1000, like=np.ones(1), shapes=True))
    1
    """
    if mask is None:
        lo, hi, exact = np.zeros(q_len, int), np.full(q_len, kv_len), np.ones(q_len, bool)
    else:
        rule = mask
        if not isinstance(mask, Mask):
            rule = Dense(array_namespace(mask).broadcast_to(mask, (*mask.shape[:-2], q_len, kv_len)))
        lo, hi, exact = rule.rows(np.arange(q_len))
        lo, hi, exact = Interval.of(lo, np.minimum(hi, kv_len), exact)
    leading = tuple(range(lo.ndim - 1))
    if not exact.all():
        return list(tiles(lo.min(axis=leading), hi.max(axis=leading), shapes=False, rule=rule))
    sequences = prod(lo.shape[:-1])
    if sequences > 1:
        one_lo, one_hi = lo[(0,) * (lo.ndim - 1)], hi[(0,) * (hi.ndim - 1)]
        entries, pairs = sequences * q_len * kv_len, int(np.maximum(hi - lo, 0).sum())
        if (lo == one_lo).all() and (hi == one_hi).all():
            lo, hi = one_lo, one_hi
        elif entries <= GROUP and (entries - pairs) * prod(axes) < sequences**2 * TILE:
            return [Tile((), slice(0, q_len), slice(0, kv_len), kv_len, rule=rule)]
    if is_numpy_array(like) and np.any((hi - lo) * 4 * QUERIES >= SCORES):  # a head fills the cache
        lo, hi = np.broadcast_to(lo, (*axes, q_len)), np.broadcast_to(hi, (*axes, q_len))
    return list(tiles(lo, hi, shapes))


def tiles(lo: np.ndarray, hi: np.ndarray, shapes: bool, rule: Mask | None = None) -> Iterator[Tile]:
    """Tiles that together hold every pair of these intervals, which `Mask.interval` gives.

    A tile has a few queries and the hull of their intervals. Where `shapes` is true, a long stretch of
    queries is a single tile when they all see the same keys, when each sees one key more than the one
    before (a causal tile), and when the interval moves along with the query (a band: a sliding window).

    >>> from selfattn.masks import sliding_window
    >>> lo, hi, _ = sliding_window(127).interval(1000, 1000)
    >>> for tile in tiles(lo, hi, shapes=True):
    ...     print(tile.queries, tile.keys, tile.blocks, tile.causal)
    slice(0, 128, None) slice(0, 128, None) 1 True
    slice(128, 960, None) slice(1, 960, None) 13 False
    slice(960, 1000, None) slice(833, 1000, None) 1 False
    """
    n = lo.shape[-1]
    for at in np.ndindex(lo.shape[:-1]):
        leading, ends = [], []
        for i, size in zip(at, lo.shape[:-1], strict=True):
            leading.append(slice(i, i + 1) if size > 1 else slice(None))
        first, behind = lo[at], hi[at]
        for step, further in ((0, 0), (0, 1), (1, 1)):
            changes = np.flatnonzero((np.diff(first) != step) | (np.diff(behind) != further)) + 1
            ends.append(np.append(changes, n))
        row = 0
        while row < n:
            same = int(ends[0][np.searchsorted(ends[0], row, side="right")]) - row
            growing = int(ends[1][np.searchsorted(ends[1], row, side="right")]) - row
            moving = int(ends[2][np.searchsorted(ends[2], row, side="right")]) - row
            width = int(behind[row : row + QUERIES].max() - first[row : row + QUERIES].min())
            blocks, causal = 1, False
            if shapes and same > QUERIES:
                rows = same
            elif shapes and growing > max(QUERIES, behind[row] - first[row]):
                rows, causal = growing, True
            elif shapes and moving > QUERIES:
                blocks = min(moving // QUERIES, max(1, SPAN // width))
                rows = blocks * QUERIES
            else:  # few enough that the hull is not much wider than what one query sees
                rows = min(max(QUERIES, width // 8), 4 * QUERIES, n - row)
            block = slice(row, row + rows // blocks)
            start, stop = int(first[block].min()), int(behind[block].max())
            if start < stop:
                common = slice(int(first[block].max()) - start, int(behind[block].min()) - start)
                bounds = None
                if common != slice(0, stop - start) and not causal and rule is None:
                    bounds = first[block, None] - start, behind[block, None] - start
                queries, keys = slice(row, row + rows), slice(start, stop + (blocks - 1) * QUERIES)
                yield Tile(tuple(leading), queries, keys, stop - start, blocks, causal, bounds, rule, common)
            row += rows


@dataclass(frozen=True, eq=False)
class Dense(Mask):
    """A boolean array ``(..., q_len, kv_len)`` as a rule."""

    array: Any

    def block(self, queries: slice, keys: slice, like: Any = None) -> Any:
        """See `Mask.block`."""
        return self.array[..., queries, keys]

    def rows(self, i: np.ndarray) -> Interval:
        """See `Mask.rows`: the hull of all that is allowed in a block of queries, found by looking."""
        xp, lo, hi = array_namespace(self.array), np.full(len(i), END), np.zeros(len(i), int)
        for start in range(0, len(i), QUERIES):
            rows = slice(start, min(start + QUERIES, len(i)))
            seen = xp.any(self.array[..., rows, :], axis=tuple(range(self.array.ndim - 1)))
            (keys,) = xp.nonzero(seen)
            if keys.shape[0]:
                lo[rows], hi[rows] = int(keys[0]), int(keys[-1]) + 1
        return Interval(lo, hi, i != i)
