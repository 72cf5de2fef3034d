"""The masks in use: causal, sliding windows, padding, prefixes, packed documents; see `Mask` for more."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_torch_array, to_device

from .arrays import integer, traced
from .mask import END, Interval, Mask


class Span(Mask):
    """A rule that allows each query the keys between two bounds, and all of them."""

    def bounds(self, i: Any) -> tuple[Any, Any]:
        """The first key of the queries ``(q_len, 1)`` and the one behind their last, which broadcast."""
        raise NotImplementedError

    def block(self, queries: slice, keys: slice, like: Any = None) -> Any:
        """See `Mask.block`."""
        like = np.empty(0) if like is None else like
        xp = array_namespace(like)
        i = xp.arange(queries.start, queries.stop, device=device(like))[:, None]
        j = xp.arange(keys.start, keys.stop, device=device(like))[None, :]
        lo, hi = self.bounds(i)
        allowed = (lo <= j) & (j < hi)
        return xp.broadcast_to(allowed, (*allowed.shape[:-2], i.shape[0], j.shape[1]))

    def rows(self, i: np.ndarray) -> Interval:
        """See `Mask.rows`."""
        i = i[:, None]
        lo, hi = self.bounds(i)
        return Interval.of(np.maximum(lo + 0 * i, 0)[..., 0], (hi + 0 * i)[..., 0], True)


class Causal(Span):
    """See `causal`."""

    def __init__(self) -> None:
        pass  # no field

    def bounds(self, i: Any) -> tuple[Any, Any]:
        """See `Span.bounds`."""
        return 0, i + 1

    def __repr__(self) -> str:
        return "causal"


@dataclass(frozen=True, eq=False, repr=False)
class SlidingWindow(Span):
    """See `sliding_window`."""

    left: int
    right: int

    def bounds(self, i: Any) -> tuple[Any, Any]:
        """See `Span.bounds`."""
        return i - min(self.left, END), i + min(self.right, END) + 1

    def __repr__(self) -> str:
        return f"sliding_window({self.left}, {self.right})" if self.right else f"sliding_window({self.left})"


@dataclass(frozen=True, eq=False, repr=False)
class Padding(Span):
    """See `padding`."""

    lengths: Any

    @property
    def leading(self) -> tuple[int, ...]:
        """See `Mask`."""
        return (*self.lengths.shape, 1) if self.lengths.ndim else ()

    def bounds(self, i: Any) -> tuple[Any, Any]:
        """See `Span.bounds`."""
        lengths = array_namespace(i).asarray(self.lengths, device=device(i))
        return 0, lengths[..., None, None, None] if lengths.ndim else lengths

    def __repr__(self) -> str:
        return f"padding({_printed(self.lengths)})"


class Prefix(Padding):
    """See `prefix`."""

    def __repr__(self) -> str:
        return f"prefix({_printed(self.lengths)})"


@dataclass(frozen=True, eq=False, repr=False)
class Documents(Mask):
    """See `documents`."""

    ids: Any

    @property
    def leading(self) -> tuple[int, ...]:
        """See `Mask`."""
        return (*self.ids.shape[:-1], 1) if self.ids.ndim > 1 else ()

    def block(self, queries: slice, keys: slice, like: Any = None) -> Any:
        """See `Mask.block`."""
        self._check(queries.start, queries.stop)
        like = np.empty(0) if like is None else like
        xp, n = array_namespace(like), self.ids.shape[-1]
        ids = xp.asarray(self.ids, device=device(like))
        same = ids[..., queries, None] == ids[..., None, keys.start : min(keys.stop, n)]
        behind = keys.stop - keys.start - same.shape[-1]  # the last id
        if behind:
            none = xp.zeros((*same.shape[:-1], behind), dtype=xp.bool, device=device(like))
            same = xp.concat([same, none], axis=-1)
        return same[..., None, :, :] if ids.ndim > 1 else same

    def rows(self, i: np.ndarray) -> Interval:
        """See `Mask.rows`: from a document's first token to its last, exact where no other is in between."""
        if i.size:
            self._check(int(i[0]), int(i[-1]) + 1)
        order = np.argsort(self.ids, axis=-1, kind="stable")
        ids = np.take_along_axis(self.ids, order, axis=-1)
        begins = np.ones(ids.shape, bool)
        begins[..., 1:] = ids[..., 1:] != ids[..., :-1]
        ends = np.ones(ids.shape, bool)
        ends[..., :-1] = begins[..., 1:]
        lo, hi = np.empty_like(order), np.empty_like(order)
        count = np.diff(np.append(np.flatnonzero(begins), begins.size))
        np.put_along_axis(lo, order, np.repeat(order[begins], count).reshape(ids.shape), axis=-1)
        np.put_along_axis(hi, order, np.repeat(order[ends] + 1, count).reshape(ids.shape), axis=-1)
        counts = np.empty_like(order)
        np.put_along_axis(counts, order, np.repeat(count, count).reshape(ids.shape), axis=-1)
        heads = (slice(None),) * (ids.ndim - 1) + ((None,) if ids.ndim > 1 else ())
        return Interval(lo[*heads, i], hi[*heads, i], (hi - lo == counts)[*heads, i])

    def _check(self, start: int, stop: int) -> None:
        n = self.ids.shape[-1]
        if start < stop and not 0 <= start < stop <= n:
            raise ValueError(f"there are ids for {n} positions; got queries from {start} to {stop - 1}")

    def __repr__(self) -> str:
        return f"documents({_printed(self.ids)})"


causal = Causal()
"""Each query attends to itself and to what came before it (Vaswani et al. 2017, section 3.2.3)."""


def sliding_window(left: int, right: int = 0) -> Mask:
    """Each query attends to `left` keys before it, itself, and `right` keys after it (Beltagy et al. 2020).

    Raises `TypeError` when a side is no integer, `ValueError` when one is negative.

    >>> sliding_window(1).dense(3, 3).astype(int)
    array([[1, 0, 0],
           [1, 1, 0],
           [0, 1, 1]])
    """
    left, right = integer("left", left), integer("right", right)
    if left < 0 or right < 0:
        seen = f"left={left}, right={right}"
        raise ValueError(f"a window reaches 0 or more keys to each side; got {seen}")
    return SlidingWindow(left, right)


def padding(lengths: Any) -> Mask:
    """Only the first `lengths` keys of each sequence are real; the rest is padding that nobody attends to.

    `lengths` is an integer, or an integer array over the batch, ``(batch,)`` or ``(*batch,)``: then the
    dense mask is ``(*batch, 1, q_len, kv_len)``, with an axis of one for the heads.

    Raises `TypeError` when the lengths aren't integers, `ValueError` when one is negative.

    >>> padding([1, 2]).dense(1, 2).astype(int).tolist()
    [[[[1, 0]]], [[[1, 1]]]]
    """
    return Padding(_lengths(lengths))


def prefix(length: Any) -> Mask:
    """Every query attends to the first `length` keys (the prefix of Raffel et al. 2020, section 3.2.1).

    ``causal | prefix(4)`` is a language model that reads its first four tokens both ways. `length`, shapes
    and errors: see `padding`, which is the same rule for another purpose.

    >>> (causal | prefix(2)).dense(3, 3).astype(int)
    array([[1, 1, 0],
           [1, 1, 0],
           [1, 1, 1]])
    """
    return Prefix(_lengths(length))


def documents(ids: Any) -> Mask:
    """Tokens attend within their own document, where several are packed into one sequence.

    `ids` is an integer array ``(n,)``, or ``(*batch, n)``: then the dense mask is
    ``(*batch, 1, q_len, kv_len)``. Query and key attend when the ids at their positions are equal; keys
    behind the last id belong to no document.

    Raises `TypeError` when the ids aren't integers, `ValueError` when they are a single number or when a
    query stands where there is no id.

    >>> documents([7, 7, 8]).dense(3, 3).astype(int)
    array([[1, 1, 0],
           [1, 1, 0],
           [0, 0, 1]])
    """
    ids = _integers("ids", ids)
    if ids.ndim == 0:
        raise ValueError(f"ids are an array (..., n), one for each position; got the number {ids}")
    return Documents(ids if traced(ids) else ids.astype(np.int64))


def _lengths(numbers: Any) -> Any:
    lengths = _integers("lengths", numbers)
    if traced(lengths):
        return lengths
    if lengths.size and lengths.min() < 0:
        raise ValueError(f"lengths are 0 or more; got {lengths.min()}")
    if lengths.dtype == np.uint64:  # whose largest numbers are negative as int64
        lengths = np.minimum(lengths, np.uint64(END))
    return lengths.astype(np.int64)


def _integers(name: str, numbers: Any) -> Any:
    """A NumPy array of one's own; a tensor that can't be looked at, as in torch.compile, stays as it is."""
    if traced(numbers):
        return numbers
    array = np.asarray(to_device(numbers, "cpu") if is_torch_array(numbers) else numbers).copy()
    if array.size == 0:
        return array.astype(np.int64)  # an empty list makes floats
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} are integers; got {array.dtype}")
    return array


def _printed(numbers: np.ndarray) -> str:
    shown = np.array2string(numbers, separator=", ", threshold=8, formatter={"int": str})
    return " ".join(shown.split())
