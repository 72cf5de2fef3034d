"""The masks in use: causal, sliding windows, padding, prefixes, packed documents; see `Mask` for more."""

from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from .mask import Mask

causal = Mask(bounds=lambda i: (0, i + 1))
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
        seen = f"left={left}, right={right}"
        raise ValueError(f"a window reaches 0 or more keys to each side; got {seen}")
    return Mask(bounds=lambda i: (i - left, i + right + 1))


def padding(lengths: Any) -> Mask:
    """Only the first `lengths` keys of each sequence are real; the rest is padding that nobody attends to.

    `lengths` is an integer, or an integer array over the batch, ``(batch,)`` or ``(*batch,)``: then the
    dense mask is ``(*batch, 1, q_len, kv_len)``, with an axis of one for the heads.

    Raises `TypeError` when the lengths aren't integers, `ValueError` when one is negative.

    >>> padding([1, 2]).dense(1, 2).astype(int).tolist()
    [[[[1, 0]]], [[[1, 1]]]]
    """
    counts = _integers("lengths", lengths)
    if counts.size and counts.min() < 0:
        raise ValueError(f"lengths are 0 or more; got {counts.min()}")
    counts = counts[..., None, None, None] if counts.ndim else counts
    return Mask(bounds=lambda i: (0, array_namespace(i).asarray(counts, device=device(i))))


def prefix(length: Any) -> Mask:
    """Every query attends to the first `length` keys (the prefix of Raffel et al. 2020, section 3.2.1).

    ``causal | prefix(4)`` is a language model that reads its first four tokens both ways. `length`, shapes
    and errors: see `padding`, which is the same rule for another purpose.

    >>> (causal | prefix(2)).dense(3, 3).astype(int)
    array([[1, 1, 0],
           [1, 1, 0],
           [1, 1, 1]])
    """
    return padding(length)


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
    n, heads = ids.shape[-1], (1,) if ids.ndim > 1 else ()

    def at(positions: Any, table: np.ndarray) -> Any:
        xp = array_namespace(positions)
        table = table.reshape(*ids.shape[:-1], *heads, n)
        return xp.take(xp.asarray(table, device=device(positions)), positions, axis=-1)

    def of_queries(i: Any, table: np.ndarray) -> Any:
        xp = array_namespace(i)
        if i.shape[0] and not 0 <= int(xp.min(i)) <= int(xp.max(i)) < n:
            raise ValueError(
                f"there are ids for {n} positions; got queries from {int(xp.min(i))} to {int(xp.max(i))}"
            )
        return at(i[:, 0], table)[..., :, None]

    def changes(ids: np.ndarray) -> np.ndarray:
        return ids[..., 1:] != ids[..., :-1]

    if changes(ids).sum() > changes(np.sort(ids, axis=-1)).sum():  # some document is in several pieces
        return Mask(
            lambda i, j: (
                of_queries(i, ids) == at(array_namespace(j).clip(j[0, :], max=n - 1), ids)[..., None, :]
            ),
            lambda i: (0, n),
        )
    starts = np.ones(ids.shape, bool)
    starts[..., 1:] = changes(ids)
    document = np.cumsum(starts)  # numbers the documents of all sequences in order
    row = np.arange(ids.size) // max(n, 1) * n
    first, behind = (np.searchsorted(document, document, side) - row for side in ("left", "right"))
    return Mask(bounds=lambda i: (of_queries(i, first), of_queries(i, behind)))


def _integers(name: str, numbers: Any) -> np.ndarray:
    array = np.asarray(numbers)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name} are integers; got {array.dtype}")
    return array
