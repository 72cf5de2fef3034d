"""A rule that says who may look at whom, on (query index, key index), for any lengths; rules compose.

**True means may attend**, as in torch's `scaled_dot_product_attention`. The boolean masks of
`torch.nn.MultiheadAttention` mean the opposite.

A rule is data: it prints as it was written, compares, pickles, and hashes where its fields do.
"""

from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device

from .arrays import describe, integer, is_array, joined, traced

END = 2**61  # behind every key, and so small that sums of a few such numbers don't overflow


class Interval(NamedTuple):
    """The keys outside which a rule surely forbids, for each query: from `lo` on, before `hi`.

    Where `exact`, the query may attend to all of them. NumPy arrays ``(*leading, q_len)``; an interval
    without keys is ``END, 0``, so that it leaves minima and maxima alone. ``&`` and ``|`` are those of rules.

    >>> Interval.of(np.array([0]), np.array([4]), True) & Interval.of(np.array([2]), np.array([9]), True)
    Interval(lo=array([2]), hi=array([4]), exact=array([ True]))
    """

    lo: Any
    hi: Any
    exact: Any

    @classmethod
    def of(cls, lo: Any, hi: Any, exact: Any) -> "Interval":
        """The interval between two bounds, of which the second may lie before the first."""
        some = lo < hi
        return cls(np.where(some, lo, END), np.where(some, hi, 0), exact | ~some)

    def __and__(self, other: "Interval") -> "Interval":
        return Interval.of(
            np.maximum(self.lo, other.lo), np.minimum(self.hi, other.hi), self.exact & other.exact
        )

    def __or__(self, other: "Interval") -> "Interval":
        touch = np.maximum(self.lo, other.lo) <= np.minimum(self.hi, other.hi)
        whole = touch | (self.hi == 0) | (other.hi == 0)
        lo, hi = np.minimum(self.lo, other.lo), np.maximum(self.hi, other.hi)
        return Interval(lo, hi, self.exact & other.exact & whole)


class Mask:
    """A rule of your own, for any lengths: which query may attend to which key.

    `predicate` receives two integer arrays that broadcast, query indices ``(q_len, 1)`` and key indices
    ``(1, kv_len)``, and returns a boolean array: True where the query may attend to the key. Rules
    compose with ``&``, ``|`` and ``~``. What one of them surely forbids, `flash_attention` never computes:
    ``sliding_window(99) & Mask(predicate)`` asks the predicate about keys within the window only.

    A rule can be pickled when its predicate can: a function of a module, not a lambda. `leading` are the axes
    that a rule brings before ``(q_len, kv_len)``, such as ``(batch, 1)`` for `padding`; of a predicate's they
    aren't known before it is asked.

    >>> from selfattn import causal
    >>> even = Mask(lambda i, j: j % 2 == 0)
    >>> (causal & even).dense(3, 4).astype(int)
    array([[1, 0, 0, 0],
           [1, 0, 0, 0],
           [1, 0, 1, 0]])
    >>> causal & ~even
    causal & ~Mask(<lambda>)
    """

    leading: tuple[int, ...] = ()  # the axes that it brings before (q_len, kv_len)
    strength = 4  # how closely it binds when printed: | is 1, & is 2, ~ is 3

    def __init__(self, predicate: Callable[[Any, Any], Any]) -> None:
        object.__setattr__(self, "predicate", predicate)

    def __setattr__(self, name: str, value: Any) -> None:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    @property
    def traced(self) -> bool:
        """Whether torch records or transforms what is done with a number that it holds."""
        for field in vars(self).values():
            if field.traced if isinstance(field, Mask) else traced(field):
                return True
        return False

    def dense(self, q_len: int, kv_len: int, like: Any = None) -> Any:
        """The rule as a boolean array ``(..., q_len, kv_len)``, in the library and on the device of `like`.

        Without `like` it is a NumPy array. Raises `TypeError` when the predicate returns anything else, or a
        length is no integer.

        >>> from selfattn import causal
        >>> causal.dense(2, 3)
        array([[ True, False, False],
               [ True,  True, False]])
        """
        q_len, kv_len = integer("q_len", q_len), integer("kv_len", kv_len)
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
        allowed = self.predicate(i, j)
        if not is_array(allowed, xp, "bool"):
            seen = describe(i=i, returned=allowed)
            raise TypeError(f"a mask's predicate returns a boolean array of its indices' library; got {seen}")
        return xp.broadcast_to(allowed, (*allowed.shape[:-2], i.shape[0], j.shape[1]))

    def interval(self, q_len: int, kv_len: int) -> Interval:
        """What each query surely doesn't see, and whether it sees all the rest: see `Interval`.

        Where there is no key left, the interval is ``kv_len, 0``.

        >>> from selfattn import sliding_window
        >>> sliding_window(1).interval(4, 3)
        Interval(lo=array([0, 0, 1, 2]), hi=array([1, 2, 3, 3]), exact=array([ True,  True,  True,  True]))
        """
        lo, hi, exact = self.rows(np.arange(q_len))
        lo, hi, exact = Interval.of(lo, np.minimum(hi, kv_len), exact)
        return Interval(np.minimum(lo, kv_len), hi, exact)

    def rows(self, i: np.ndarray) -> Interval:
        """The `Interval` of the queries at these positions, ``(q_len,)``, however many keys there are.

        Of a predicate nothing is known.
        """
        return Interval(0 * i, 0 * i + END, i != i)

    def shift(self, offset: int) -> "Mask":
        """The same rule for queries that start at position `offset`: query i stands at i + offset.

        Raises `TypeError` when the offset is no integer, `ValueError` when no sequence is that long.

        >>> from selfattn import causal
        >>> causal.shift(2).dense(1, 4)
        array([[ True,  True,  True, False]])
        """
        offset = integer("offset", offset)
        if not -END <= offset <= END:
            raise ValueError(f"an offset lies between -2**61 and 2**61; got {offset}")
        return Shifted(self, offset) if offset else self

    def __and__(self, other: "Mask") -> "Mask":
        return And(self, other) if isinstance(other, Mask) else NotImplemented

    def __or__(self, other: "Mask") -> "Mask":
        return Or(self, other) if isinstance(other, Mask) else NotImplemented

    def __invert__(self) -> "Mask":
        return Not(self)

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        fields = zip(vars(self).values(), vars(other).values(), strict=True)
        return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in fields)

    def __hash__(self) -> int:
        fields = [x.tobytes() if isinstance(x, np.ndarray) else x for x in vars(self).values()]
        return hash((type(self), *fields))

    def __repr__(self) -> str:
        return f"Mask({getattr(self.predicate, '__name__', self.predicate)})"

    def within(self, strength: int) -> str:
        """Itself within a composition that binds so closely, in parentheses where it binds less closely."""
        return repr(self) if self.strength >= strength else f"({self!r})"


@dataclass(frozen=True, eq=False, repr=False)
class And(Mask):
    """What both rules allow."""

    first: Mask
    second: Mask
    strength = 2

    @property
    def leading(self) -> tuple[int, ...]:
        """See `Mask`."""
        return joined(self.first.leading, self.second.leading)

    def block(self, queries: slice, keys: slice, like: Any = None) -> Any:
        """See `Mask.block`."""
        return self.first.block(queries, keys, like) & self.second.block(queries, keys, like)

    def rows(self, i: np.ndarray) -> Interval:
        """See `Mask.rows`."""
        return self.first.rows(i) & self.second.rows(i)

    def __repr__(self) -> str:
        return f"{self.first.within(2)} & {self.second.within(3)}"


@dataclass(frozen=True, eq=False, repr=False)
class Or(Mask):
    """What one of the rules allows, or both."""

    first: Mask
    second: Mask
    strength = 1

    @property
    def leading(self) -> tuple[int, ...]:
        """See `Mask`."""
        return joined(self.first.leading, self.second.leading)

    def block(self, queries: slice, keys: slice, like: Any = None) -> Any:
        """See `Mask.block`."""
        return self.first.block(queries, keys, like) | self.second.block(queries, keys, like)

    def rows(self, i: np.ndarray) -> Interval:
        """See `Mask.rows`."""
        return self.first.rows(i) | self.second.rows(i)

    def __repr__(self) -> str:
        return f"{self.first.within(1)} | {self.second.within(2)}"


@dataclass(frozen=True, eq=False, repr=False)
class Not(Mask):
    """What a rule forbids; nothing is surely forbidden."""

    rule: Mask
    strength = 3

    @property
    def leading(self) -> tuple[int, ...]:
        """See `Mask`."""
        return self.rule.leading

    def block(self, queries: slice, keys: slice, like: Any = None) -> Any:
        """See `Mask.block`."""
        return ~self.rule.block(queries, keys, like)

    def __repr__(self) -> str:
        return f"~{self.rule.within(3)}"


@dataclass(frozen=True, eq=False, repr=False)
class Shifted(Mask):
    """A rule for queries that stand further on."""

    rule: Mask
    offset: int

    @property
    def leading(self) -> tuple[int, ...]:
        """See `Mask`."""
        return self.rule.leading

    def block(self, queries: slice, keys: slice, like: Any = None) -> Any:
        """See `Mask.block`."""
        moved = slice(queries.start + self.offset, queries.stop + self.offset)
        return self.rule.block(moved, keys, like)

    def rows(self, i: np.ndarray) -> Interval:
        """See `Mask.rows`."""
        return self.rule.rows(i + self.offset)

    def shift(self, offset: int) -> Mask:
        """See `Mask.shift`: shifts add up."""
        return self.rule.shift(self.offset + integer("offset", offset))

    def __repr__(self) -> str:
        return f"{self.rule.within(4)}.shift({self.offset})"
