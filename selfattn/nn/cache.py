"""What a layer has computed already, so that decoding projects each token once."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..arrays import describe


class KVCache:
    """The keys and values of one layer, kept from call to call while a sequence is decoded.

    `length` is the number of tokens that have gone through the layer: the position of the next one. With
    `num_kv_heads` key heads of width d_k there are ``2 * num_kv_heads * d_k`` numbers for each token. They
    lie in blocks that double when they are full, so that a new token rarely moves the old ones. Blocks are
    written in place: decode under `torch.no_grad`.

    >>> from selfattn.nn import MultiHeadAttention
    >>> layer, cache = MultiHeadAttention(8, 2), KVCache()
    >>> with torch.no_grad():
    ...     outputs = [layer(token, cache=cache) for token in torch.ones(3, 1, 8)]
    >>> cache.length
    3
    """

    def __init__(self) -> None:
        self.length = 0
        self._memory: Tensor | None = None
        self._blocks: list[Tensor] = []

    def extended(
        self, k: Float[Tensor, "*batch h n d"], v: Float[Tensor, "*batch h n d"]
    ) -> list[Float[Tensor, "*batch h kv_len d"]]:
        """The keys and values so far, with these after them: to stay once `length` is raised.

        Raises `ValueError` when shape or type don't continue what is here, or when a memory's is here.
        """
        if self._memory is not None:
            raise ValueError(f"a cache for a memory takes no other; got {describe(cached=self._memory, k=k)}")
        self._blocks = self._blocks or [x[..., :0, :] for x in (k, v)]
        if any(
            (block.dtype, *block.shape[:-2], block.shape[-1]) != (x.dtype, *x.shape[:-2], x.shape[-1])
            for block, x in zip(self._blocks, (k, v), strict=True)
        ):
            seen = describe(cached=self._blocks[0][..., : self.length, :], k=k, v=v)
            raise ValueError(f"a cache grows by tokens alone: all else must stay; got {seen}")
        end, room = self.length + k.shape[-2], self._blocks[0].shape[-2]
        if end > room:
            more = max(end, 2 * room) - room
            self._blocks = [
                torch.cat([x, x.new_empty(*x.shape[:-2], more, x.shape[-1])], dim=-2) for x in self._blocks
            ]
        for block, x in zip(self._blocks, (k, v), strict=True):
            block[..., self.length : end, :] = x
        return [block[..., :end, :] for block in self._blocks]

    def of_memory(self, memory: Tensor, project: Callable[[Tensor], Sequence[Tensor]]) -> Sequence[Tensor]:
        """The keys and values that `project` makes of the memory, computed at the first call only.

        Raises `ValueError` for another memory than the first call's: it needs a cache of its own.
        """
        if not self._blocks:
            self._memory, self._blocks = memory, project(memory)
        if memory is not self._memory:
            seen = describe(memory=memory, cached=self._memory)
            raise ValueError(f"this cache isn't this memory's; got {seen}")
        return self._blocks
