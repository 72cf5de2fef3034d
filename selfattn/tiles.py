"""Which queries see which keys, cut into tiles that can be computed one after the other."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace

from .mask import Mask

QUERIES = 64  # in a block of a band, and the fewest in a tile
SPAN = 2**16  # keys that the blocks of a band may see, each counted once for every block that sees it


class Tile(NamedTuple):
    """Some queries and the keys that they see, as slices of the axes of the scores.

    `blocks` is 1, or the number of equal blocks of queries in a band: each block sees as many keys as the
    one before, just so many further on as it has queries. In a `causal` tile the last query sees all keys,
    and every other one sees one key less than the next. `bounds` has the interval of each query of the first
    block, counted from the first key, ``(queries, 1)`` both; it is None in a causal tile and where all see
    all.
    """

    leading: tuple[slice, ...]
    queries: slice
    keys: slice
    blocks: int
    causal: bool
    bounds: tuple[np.ndarray, np.ndarray] | None

    @property
    def width(self) -> int:
        """The number of keys that a block sees."""
        return self.keys.stop - self.keys.start - (self.blocks - 1) * QUERIES

    def seen_by_all(self) -> tuple[int, int]:
        """Where the keys begin and end that every query of the first block sees."""
        if self.bounds is None:
            return 0, self.width
        return int(self.bounds[0].max()), int(self.bounds[1].min())

    def allowed(self, keys: slice) -> np.ndarray | None:
        """Who sees whom in the first block, ``(queries, keys)``; None where all see all of these keys."""
        first, behind = self.seen_by_all()
        if self.bounds is None or (first <= keys.start and keys.stop <= behind):
            return None
        (lo, hi), j = self.bounds, np.arange(keys.start, keys.stop)
        return (lo <= j) & (j < hi)

    def index(self, array: Any, *last: slice) -> tuple[Any, ...]:
        """Where the tile is in an array that broadcasts: along the leading axes and at the `last` slices.

        >>> tile = Tile((slice(2, 3),), slice(0, 64), slice(0, 9), 1, False, None)
        >>> tile.index(np.ones((1, 64, 99)), tile.queries, tile.keys)
        (Ellipsis, slice(None, None, None), slice(0, 64, None), slice(0, 9, None))
        """
        axes = zip(reversed(array.shape), reversed((*self.leading, *last)), strict=False)
        return (..., *reversed([slice(None) if size == 1 else at for size, at in axes]))


def tiles(lo: np.ndarray, hi: np.ndarray, shapes: bool) -> Iterator[Tile]:
    """Tiles that together hold every pair of these intervals, which `Mask.interval` gives.

    A tile has a few queries and the hull of their intervals. Where `shapes` is true, a long stretch of
    queries is a single tile when they all see the same keys, when each sees one key more than the one
    before (a causal tile), and when the interval moves along with the query (a band: a sliding window).

    >>> from selfattn.masks import sliding_window
    >>> for tile in tiles(*sliding_window(127).interval(1000, 1000), shapes=True):
    ...     print(tile.queries, tile.keys, tile.blocks, tile.causal)
    slice(0, 128, None) slice(0, 128, None) 1 True
    slice(128, 960, None) slice(1, 960, None) 13 False
    slice(960, 1000, None) slice(833, 1000, None) 1 False
    """
    n = lo.shape[-1]
    for at in np.ndindex(lo.shape[:-1]):
        leading = tuple(
            slice(i, i + 1) if size > 1 else slice(None) for i, size in zip(at, lo.shape[:-1], strict=True)
        )
        first, behind = lo[at], hi[at]
        ends = [
            np.append(np.flatnonzero((np.diff(first) != step) | (np.diff(behind) != further)) + 1, n)
            for step, further in ((0, 0), (0, 1), (1, 1))
        ]
        row = 0
        while row < n:
            same, growing, moving = (int(end[np.searchsorted(end, row, side="right")]) - row for end in ends)
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
                full = (first[block] == start).all() and (behind[block] == stop).all()
                bounds = None if full or causal else (first[block, None] - start, behind[block, None] - start)
                queries, keys = slice(row, row + rows), slice(start, stop + (blocks - 1) * QUERIES)
                yield Tile(leading, queries, keys, blocks, causal, bounds)
            row += rows


def visible(
    mask: Any, q_len: int, kv_len: int, like: Any
) -> tuple[np.ndarray, np.ndarray, Callable[[slice, slice], Any] | None]:
    """Each query's interval of keys, ``(..., q_len)``, and who is allowed in it.

    The latter is a function of queries and keys, two slices, that returns a boolean array in the library of
    `like`; it is None when a query may attend to the whole of its interval.

    >>> visible(np.array([[True, False, True], [False, False, False]]), 2, 3, like=np.ones(1))[:2]
    (array([0, 0]), array([3, 3]))
    """
    if mask is None or isinstance(mask, Mask):
        mask = Mask() if mask is None else mask
        lo, hi = mask.interval(q_len, kv_len)
        if mask.exact(q_len):
            return lo, hi, None
        leading = tuple(range(lo.ndim - 1))
        return lo.min(axis=leading), hi.max(axis=leading), partial(mask.block, like=like)
    xp = array_namespace(mask)
    mask = xp.broadcast_to(mask, (*mask.shape[:-2], q_len, kv_len))
    lo, hi = np.full(q_len, kv_len), np.zeros(q_len, int)
    for start in range(0, q_len, QUERIES):
        rows = slice(start, min(start + QUERIES, q_len))
        (keys,) = xp.nonzero(xp.any(mask[..., rows, :], axis=tuple(range(mask.ndim - 1))))
        if keys.shape[0]:
            lo[rows], hi[rows] = int(keys[0]), int(keys[-1]) + 1
    return lo, hi, lambda queries, keys: mask[..., queries, keys]
