"""The output of a plan of tiles, put together, and its gradients."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from array_api_compat import array_namespace, device

from .tiles import Tile


def put_together(attend: Callable, plan: Sequence[Tile], q: Any, k: Any, v: Any, *bias: Any) -> Any:
    """The output, tile by tile; zeros where no tile is."""
    output = array_namespace(q).zeros((*q.shape[:-1], v.shape[-1]), dtype=q.dtype, device=device(q))
    for tile in plan:
        at, *_ = indices = _indices(tile, q, k, v, *bias)
        output[at] = attend(tile, *(x[at] for x, at in zip((q, k, v, *bias), indices, strict=True)))
    return output


@cache
def recomputing() -> Callable:
    """`put_together` with a backward pass that computes each tile again."""
    import torch

    class Recomputing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, attend: Callable, plan: Sequence[Tile], *arrays: Any) -> Any:
            ctx.attend, ctx.plan = attend, plan
            ctx.save_for_backward(*arrays)
            return put_together(attend, plan, *arrays)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, gradient: Any) -> tuple[Any, ...]:
            arrays, wanted = ctx.saved_tensors, ctx.needs_input_grad[2:]
            totals = [torch.zeros_like(x) if want else None for x, want in zip(arrays, wanted, strict=True)]
            for tile in ctx.plan:
                indices = _indices(tile, *arrays)
                parts = [
                    x[at].detach().requires_grad_(want)
                    for x, at, want in zip(arrays, indices, wanted, strict=True)
                ]
                with torch.enable_grad():
                    ctx.attend(tile, *parts).backward(gradient[indices[0]])
                for total, at, part in zip(totals, indices, parts, strict=True):
                    if part.requires_grad:
                        total[at] += part.grad
            return None, None, *totals

    return Recomputing.apply


def _indices(tile: Tile, q: Any, k: Any, v: Any, *bias: Any) -> list[tuple[Any, ...]]:
    """Where the tile is in each array."""
    width = slice(None)
    return [
        tile.index(q, tile.queries, width),
        tile.index(k, tile.keys, width),
        tile.index(v, tile.keys, width),
        *(tile.index(x, tile.queries, tile.keys) for x in bias),
    ]
