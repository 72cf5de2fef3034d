"""What a layer has computed already, so that decoding projects each token once."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..arrays import describe


class KVCache:
    """The keys and values of one layer, kept from call to call while a sequence is decoded.

    `length` is the number of tokens that have gone through the layer: the position of the next one. With
    `num_kv_heads` key heads of width d_k there are ``2 * num_kv_heads * d_k`` numbers for each token.

    Decode under `torch.no_grad` or `torch.inference_mode`: there the numbers lie in blocks that double when
    they are full, so that a new token rarely moves the old ones. Elsewhere each call copies them, and
    gradients are right; what was cached without gradients is constant. A copy, also by pickle and
    `torch.save`, goes its own way, and is constant too.

    >>> from selfattn.nn import MultiHeadAttention
    >>> layer, cache = MultiHeadAttention(8, 2), KVCache()
    >>> with torch.no_grad():
    ...     outputs = [layer(token, cache=cache) for token in torch.ones(3, 1, 8)]
    >>> cache.length
    3
    """

    def __init__(self) -> None:
        self._length = 0
        self._layer: Callable[[], torch.nn.Module | None] | None = None  # weak: a cache keeps no model alive
        self._memory: Tensor | None = None
        self._blocks: Sequence[Tensor] = []

    @property
    def length(self) -> int:
        """How many tokens have gone through the layer."""
        return self._length

    @contextmanager
    def step(self, layer: torch.nn.Module, x: Tensor) -> Iterator[None]:
        """A call of `layer` with the tokens `x`: they count once it is over, and if it fails nothing stays.

        Raises `ValueError` when another layer's keys and values are here.
        """
        if self._layer is not None and self._layer() is not layer:
            seen = f"{describe(cached=self._kept()[0])}, and a layer of {layer.extra_repr()}"
            raise ValueError(f"each layer needs a cache of its own; got one that another has filled, {seen}")
        before = vars(self).copy()
        self._layer = weakref.ref(layer)
        try:
            yield
        except BaseException:
            vars(self).update(before)
            raise
        self._length += x.shape[-2]

    def extended(
        self, k: Float[Tensor, "*batch h n d"], v: Float[Tensor, "*batch h n d"]
    ) -> Sequence[Float[Tensor, "*batch h kv_len d"]]:
        """The keys and values so far, with these after them.

        Raises `ValueError` when shape or type don't continue what is here, or when a memory's is here.
        """
        if self._memory is not None:
            raise ValueError(f"a cache for a memory takes no other; got {describe(cached=self._memory, k=k)}")
        self._blocks = self._blocks or [x[..., :0, :] for x in (k, v)]
        cached, end = self._kept(), self._length + k.shape[-2]
        if any(
            (old.dtype, *old.shape[:-2], old.shape[-1]) != (new.dtype, *new.shape[:-2], new.shape[-1])
            for old, new in zip(cached, (k, v), strict=True)
        ):
            seen = describe(cached=cached[0], k=k, v=v)
            raise ValueError(f"a cache grows by tokens alone: all else must stay; got {seen}")
        if torch.is_grad_enabled():  # a graph may hold the blocks, and spoils when they are written to
            self._blocks = [torch.cat(parts, dim=-2) for parts in zip(cached, (k, v), strict=True)]
            return self._blocks
        room = self._blocks[0].shape[-2]
        if end > room:
            self._blocks = [_copied(old, room=max(end, 2 * room)) for old in cached]
        for block, new in zip(self._blocks, (k, v), strict=True):
            block[..., self._length : end, :] = new
        return [block[..., :end, :] for block in self._blocks]

    def of_memory(self, memory: Tensor, project: Callable[[Tensor], Sequence[Tensor]]) -> Sequence[Tensor]:
        """The keys and values that `project` makes of the memory, computed at the first call only.

        Raises `ValueError` for a memory of other numbers than the first call's: it needs a cache of its own.
        """
        if not self._blocks:
            self._memory, self._blocks = memory, [_copied(x, room=x.shape[-2]) for x in project(memory)]
        if self._memory is None or not _equal(memory, self._memory):
            seen = describe(memory=memory, cached=self._kept()[0] if self._memory is None else self._memory)
            raise ValueError(f"this cache isn't this memory's; got {seen}")
        return self._blocks

    def _kept(self) -> list[Tensor]:
        """The blocks without the room for more."""
        end = self._length if self._memory is None else None
        return [block[..., :end, :] for block in self._blocks]

    def __getstate__(self) -> dict[str, Any]:
        return {
            "length": self._length,
            "memory": None if self._memory is None else self._memory.detach(),
            "blocks": [block.detach().clone() for block in self._kept()],
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()
        self._length, self._memory = state["length"], state["memory"]
        self._blocks = [_copied(block, room=block.shape[-2]) for block in state["blocks"]]


def _copied(x: Tensor, room: int) -> Tensor:
    """The same tokens in a block with more `room`, which has no part in `torch.inference_mode`."""
    with torch.inference_mode(False):
        block = x.new_empty(*x.shape[:-2], room, x.shape[-1])
    block[..., : x.shape[-2], :] = x
    return block


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same numbers, NaN included."""
    alike = (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)
    return a is b or (alike and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True))
