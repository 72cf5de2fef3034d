"""Who may look at whom: predicates on (query index, key index) that compose.

**True means may attend**, as in torch's `scaled_dot_product_attention`. The boolean masks of
`torch.nn.MultiheadAttention` mean the opposite.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from .arrays import describe, is_array


@dataclass(frozen=True)
class Mask:
    """A rule that says which query may attend to which key, for any lengths.

    `predicate` receives two integer arrays that broadcast, query indices ``(q_len, 1)`` and key indices
    ``(1, kv_len)``, and returns a boolean array: True where the query may attend to the key. Rules
    compose with ``&``, ``|`` and ``~``.

    >>> even = Mask(lambda i, j: j % 2 == 0)
    >>> (causal & even).dense(3, 4).astype(int)
    array([[1, 0, 0, 0],
           [1, 0, 0, 0],
           [1, 0, 1, 0]])
    """

    predicate: Callable[[Any, Any], Any]

    def dense(self, q_len: int, kv_len: int, like: Any = None) -> Any:
        """The rule as a boolean array ``(..., q_len, kv_len)``, in the library and on the device of `like`.

        Without `like` it is a NumPy array. Raises `TypeError` when the predicate returns anything else.

        >>> causal.dense(2, 3)
        array([[ True, False, False],
               [ True,  True, False]])
        """
        like = np.empty(0) if like is None else like
        xp = array_namespace(like)
        i = xp.arange(q_len, device=device(like))[:, None]
        j = xp.arange(kv_len, device=device(like))[None, :]
        allowed = self.predicate(i, j)
        if not is_array(allowed, xp, "bool"):
            seen = describe(i=i, returned=allowed)
            raise TypeError(f"a mask's predicate returns a boolean array of its indices' library; got {seen}")
        return xp.broadcast_to(allowed, (*allowed.shape[:-2], q_len, kv_len))

    def shift(self, offset: int) -> "Mask":
        """The same rule for queries that start at position `offset`: query i stands at i + offset.

        >>> causal.shift(2).dense(1, 4)
        array([[ True,  True,  True, False]])
        """
        return Mask(lambda i, j: self.predicate(i + offset, j))

    def __and__(self, other: "Mask") -> "Mask":
        return Mask(lambda i, j: self.predicate(i, j) & other.predicate(i, j))

    def __or__(self, other: "Mask") -> "Mask":
        return Mask(lambda i, j: self.predicate(i, j) | other.predicate(i, j))

    def __invert__(self) -> "Mask":
        return Mask(lambda i, j: ~self.predicate(i, j))


causal = Mask(lambda i, j: j <= i)
"""Each query attends to itself and to what came before it (Vaswani et al. 2017, section 3.2.3)."""


def sliding_window(left: int, right: int = 0) -> Mask:
    """Each query attends to `left` keys before it, itself, and `right` keys after it (Beltagy et al. 2020).

    Raises `ValueError` when a side is negative.

    >>> sliding_window(1).dense(3, 3).astype(int)
    array([[1, 0, 0],
           [1, 1, 0],
           [0, 1, 1]])
    """
    if left < 0 or right < 0:
        raise ValueError(f"a window reaches 0 or more keys to each side; got left={left}, right={right}")
    return Mask(lambda i, j: (j >= i - left) & (j <= i + right))


def padding(lengths: Any) -> Mask:
    """Only the first `lengths` keys of each sequence are real; the rest is padding that nobody attends to.

    `lengths` is an integer, or an integer array over the batch, ``(batch,)`` or ``(*batch,)``: then the
    dense mask is ``(*batch, 1, q_len, kv_len)``, with an axis of one for the heads.

    Raises `TypeError` when the lengths aren't integers, `ValueError` when one is negative.

    >>> padding([1, 2]).dense(1, 2).astype(int).tolist()
    [[[[1, 0]]], [[[1, 1]]]]
    """
    counts = np.asarray(lengths)
    if not np.issubdtype(counts.dtype, np.integer):
        raise TypeError(f"lengths are integers; got {counts.dtype}")
    if counts.size and counts.min() < 0:
        raise ValueError(f"lengths are 0 or more; got {counts.min()}")
    counts = counts[..., None, None, None] if counts.ndim else counts

    def real(i: Any, j: Any) -> Any:
        return j < array_namespace(j).asarray(counts, device=device(j))

    return Mask(real)
