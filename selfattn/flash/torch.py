"""Tiles in one call of torch's kernel each, and gradients that compute a tile again instead of keeping it."""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import compress
from math import prod
from typing import Any

from ..arrays import traced, undisturbed
from . import blocks
from .plan import Tile


def attend(tile: Tile, q: Any, k: Any, v: Any, bias: Any, *, scale: float) -> Any:
    """One tile, by `torch.nn.functional.scaled_dot_product_attention`."""
    import torch
    from torch.nn.functional import pad, scaled_dot_product_attention

    *axes, rows, d_k = q.shape
    queries, keys, d_v = rows // tile.blocks, tile.width, v.shape[-1]
    allowed = tile.allowed(slice(0, keys), q)
    if bias is not None and allowed is not None:
        allowed = torch.where(allowed, bias, -torch.inf)
    elif bias is not None:
        allowed = bias
    wide = max(d_k, d_v, 1)
    if not d_k == d_v == wide:  # the kernel knows a single width, and none of zero
        q, k, v = pad(q, (0, wide - d_k)), pad(k, (0, wide - d_k)), pad(v, (0, wide - d_v))
    before = keys - queries if tile.causal else 0  # keys that the first query sees besides its own
    q = pad(q, (0, 0, before, 0)) if before else q
    if tile.blocks > 1:  # an axis of blocks, each with its keys, of which neighbours share most
        q = q.reshape(prod(axes), tile.blocks, queries, wide)
        k, v = k.reshape(prod(axes), *k.shape[-2:]), v.reshape(prod(axes), *v.shape[-2:])
        k, v = k.unfold(-2, keys, queries).mT, v.unfold(-2, keys, queries).mT
    elif len(axes) != 2:
        q, k, v = four_axes(q), four_axes(k), four_axes(v)
        if allowed is not None and allowed.ndim > 2:
            allowed = four_axes(allowed.expand(*axes, *allowed.shape[-2:]))
    if allowed is not None:
        allowed = allowed.expand(*allowed.shape[:-2], queries, keys)
    output = scaled_dot_product_attention(q, k, v, attn_mask=allowed, is_causal=tile.causal, scale=scale)
    return output[..., before:, :d_v].reshape(*axes, rows, d_v)


def four_axes(x: Any) -> Any:
    """The tensor with two leading axes, as torch's kernel wants them: those before the last are joined."""
    return x.flatten(0, -4) if x.ndim > 4 else x.reshape(*[1] * (4 - x.ndim), *x.shape)


def put_together(
    attend: Callable, formula: Callable, tiles: Sequence[Tile], q: Any, k: Any, v: Any, bias: Any = None
) -> Any:
    """`blocks.put_together` for tensors: first derivatives take tile by tile, others are the `formula`'s.

    `attend` takes, behind the tile, q, k, v and a bias or None; `formula` takes the bias by its name.
    """
    import torch

    learning = q.requires_grad or k.requires_grad or v.requires_grad
    if torch.is_grad_enabled() and (learning or (bias is not None and bias.requires_grad)):
        return _differentiable().apply(attend, formula, tiles, q, k, v, bias)
    return blocks.put_together(attend, tiles, q, k, v, bias)


@cache
def _differentiable() -> Any:
    import torch

    def beginning(arrays: Sequence[Any], wanted: Sequence[bool]) -> list[Any]:
        """The same numbers without their past, some of them with gradients."""
        return [
            x if x is None else x.detach().requires_grad_(want)
            for x, want in zip(arrays, wanted, strict=True)
        ]

    def gradients(output: Any, inputs: Sequence[Any], cotangent: Any, **options: bool) -> list[Any]:
        """One for each input, None where none is wanted."""
        wanted = [x is not None and x.requires_grad for x in inputs]
        options |= {"materialize_grads": True}  # of a bias without queries, say
        found = iter(torch.autograd.grad(output, list(compress(inputs, wanted)), cotangent, **options))
        return [next(found) if want else None for want in wanted]

    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(
            ctx: Any, attend: Callable, formula: Callable, tiles: Sequence[Tile], *arrays: Any
        ) -> Any:
            ctx.attend, ctx.formula, ctx.tiles = attend, formula, tiles
            ctx.save_for_backward(*arrays)
            ctx.graph = None
            if not blocks.is_whole(tiles, *arrays):
                return blocks.put_together(attend, tiles, *arrays)
            with torch.enable_grad():  # what the kernel keeps of a tile, the single one, is in O(n)
                inputs = beginning(arrays, ctx.needs_input_grad[3:])
                ctx.graph = inputs, attend(tiles[0], *inputs)
            return ctx.graph[1].detach()

        @staticmethod
        def backward(ctx: Any, cotangent: Any) -> tuple[Any, ...]:
            arrays, wanted, again = ctx.saved_tensors, ctx.needs_input_grad[3:], torch.is_grad_enabled()
            with torch.enable_grad(), undisturbed(cotangent):
                if again or traced(cotangent):
                    inputs = arrays if again else beginning(arrays, wanted)
                    *qkv, bias = inputs
                    output = ctx.formula(*qkv, bias=bias)
                    return None, None, None, *gradients(output, inputs, cotangent, create_graph=again)
                if ctx.graph:
                    inputs, output = ctx.graph
                    return None, None, None, *gradients(output, inputs, cotangent, retain_graph=True)
                totals = [
                    torch.zeros_like(x) if want else None for x, want in zip(arrays, wanted, strict=True)
                ]
                for tile in ctx.tiles:
                    at, parts = blocks.part(tile, *arrays)
                    inputs = beginning(parts, wanted)
                    found = gradients(ctx.attend(tile, *inputs), inputs, cotangent[at[0]])
                    for total, i, gradient in zip(totals, at, found, strict=True):
                        if total is not None:
                            total[i] += gradient
            return None, None, None, *totals

    return Differentiable
