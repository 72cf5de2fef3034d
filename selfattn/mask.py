"""A rule that says who may look at whom, on (query index, key index), for any lengths; rules compose.

**True means may attend**, as in torch's `scaled_dot_product_attention`. The boolean masks of
`torch.nn.MultiheadAttention` mean the opposite.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from .arrays import describe, is_array


def everywhere(i: Any) -> tuple[int, int]:
    """The bounds of a rule that may allow any key: the first one, and an index behind every last one.

    >>> everywhere(np.arange(3))[0]
    0
    """
    return 0, 2**62


def nowhere(i: Any) -> Any:
    """For no query is the interval known to be allowed as a whole.

    >>> nowhere(np.arange(3))
    array([False, False, False])
    """
    return i < 0


@dataclass(frozen=True)
class Mask:
    """A rule that says which query may attend to which key, for any lengths.

    `predicate` receives two integer arrays that broadcast, query indices ``(q_len, 1)`` and key indices
    ``(1, kv_len)``, and returns a boolean array: True where the query may attend to the key. Rules
    compose with ``&``, ``|`` and ``~``.

    `bounds` receives the query indices alone and returns the interval of keys outside which the rule is
    surely false: the first key and the one behind the last, two integers or integer arrays. What a rule
    surely forbids, `flash_attention` never computes. `whole` tells of which queries the interval is allowed
    as a whole, so that the predicate need not be asked. Without a predicate that is so of all.

    >>> even = Mask(lambda i, j: j % 2 == 0)
    >>> from selfattn import causal
    >>> (causal & even).dense(3, 4).astype(int)
    array([[1, 0, 0, 0],
           [1, 0, 0, 0],
           [1, 0, 1, 0]])
    """

    predicate: Callable[[Any, Any], Any] | None = None
    bounds: Callable[[Any], tuple[Any, Any]] = everywhere
    whole: Callable[[Any], Any] = nowhere

    def dense(self, q_len: int, kv_len: int, like: Any = None) -> Any:
        """The rule as a boolean array ``(..., q_len, kv_len)``, in the library and on the device of `like`.

        Without `like` it is a NumPy array. Raises `TypeError` when the predicate returns anything else.

        >>> from selfattn import causal
        >>> causal.dense(2, 3)
        array([[ True, False, False],
               [ True,  True, False]])
        """
        return self.block(slice(0, q_len), slice(0, kv_len), like)

    def block(self, queries: slice, keys: slice, like: Any = None) -> Any:
        """The part of the dense mask that belongs to some queries and keys; the rule is asked of no others.

        >>> from selfattn import causal
        >>> causal.block(slice(4, 6), slice(3, 6))
        array([[ True,  True, False],
               [ True,  True,  True]])
        """
        like = np.empty(0) if like is None else like
        xp = array_namespace(like)
        i = xp.arange(queries.start, queries.stop, device=device(like))[:, None]
        j = xp.arange(keys.start, keys.stop, device=device(like))[None, :]
        allowed = self._allows(i, j)
        return xp.broadcast_to(allowed, (*allowed.shape[:-2], i.shape[0], j.shape[1]))

    def interval(self, q_len: int, kv_len: int) -> tuple[np.ndarray, np.ndarray]:
        """Each query's first key and the one behind its last, NumPy arrays ``(..., q_len)``.

        A query attends to nothing outside. Where there is no key left, the interval is ``kv_len, 0``.

        >>> from selfattn import sliding_window
        >>> sliding_window(1).interval(4, 3)
        (array([0, 0, 1, 2]), array([1, 2, 3, 3]))
        """
        lo, hi = (np.clip(bound, 0, kv_len)[..., 0] for bound in self._interval(np.arange(q_len)[:, None]))
        return np.where(lo < hi, lo, kv_len), np.where(lo < hi, hi, 0)

    def exact(self, q_len: int) -> bool:
        """Whether every query may attend to the whole of its interval.

        >>> from selfattn import causal, prefix
        >>> (causal | prefix(2)).exact(9), (~causal).exact(9)
        (True, False)
        """
        return bool(np.all(self._whole(np.arange(q_len)[:, None])))

    def shift(self, offset: int) -> "Mask":
        """The same rule for queries that start at position `offset`: query i stands at i + offset.

        >>> from selfattn import causal
        >>> causal.shift(2).dense(1, 4)
        array([[ True,  True,  True, False]])
        """
        predicate = self.predicate and (lambda i, j: self.predicate(i + offset, j))
        return Mask(predicate, lambda i: self.bounds(i + offset), lambda i: self.whole(i + offset))

    def __and__(self, other: "Mask") -> "Mask":
        def intersection(i: Any) -> tuple[Any, Any]:
            xp, (lo, hi), (other_lo, other_hi) = array_namespace(i), self._interval(i), other._interval(i)
            return xp.maximum(lo, other_lo), xp.minimum(hi, other_hi)

        predicate = self.predicate or other.predicate
        if self.predicate and other.predicate:
            predicate = lambda i, j: self.predicate(i, j) & other.predicate(i, j)  # noqa: E731
        return Mask(predicate, intersection, lambda i: self._whole(i) & other._whole(i))

    def __or__(self, other: "Mask") -> "Mask":
        def hull(i: Any) -> tuple[Any, Any]:
            xp, (lo, hi), (other_lo, other_hi) = array_namespace(i), self._interval(i), other._interval(i)
            return xp.minimum(lo, other_lo), xp.maximum(hi, other_hi)

        def touching(i: Any) -> Any:
            xp, (lo, hi), (other_lo, other_hi) = array_namespace(i), self._interval(i), other._interval(i)
            together = xp.maximum(lo, other_lo) <= xp.minimum(hi, other_hi)
            return self._whole(i) & other._whole(i) & together

        return Mask(lambda i, j: self._allows(i, j) | other._allows(i, j), hull, touching)

    def __invert__(self) -> "Mask":
        return Mask(lambda i, j: ~self._allows(i, j))

    def _interval(self, i: Any) -> tuple[Any, Any]:
        lo, hi = self.bounds(i)
        return lo + 0 * i, hi + 0 * i

    def _whole(self, i: Any) -> Any:
        return i == i if self.predicate is None else self.whole(i)

    def _allows(self, i: Any, j: Any) -> Any:
        lo, hi = self._interval(i)
        inside = (lo <= j) & (j < hi)
        if self.predicate is None:
            return inside
        answer = self.predicate(i, j)
        if not is_array(answer, array_namespace(i), "bool"):
            seen = describe(i=i, returned=answer)
            raise TypeError(f"a mask's predicate returns a boolean array of its indices' library; got {seen}")
        return inside & answer
