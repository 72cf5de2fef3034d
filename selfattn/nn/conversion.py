"""`MultiHeadAttention` from and to torch's own module: the same numbers, under other names."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def from_torch(cls: type, module: torch.nn.MultiheadAttention) -> Any:
    """A layer that computes what the module does, with copies of its matrices.

    It is called differently. Here **True in a mask means may attend, there it forbids**; the memory stands
    for both key and value; and the axes are always ``(batch, n, d_model)``, as there with `batch_first`.

    Raises `ValueError` for options that have no counterpart here; the message names them.

    >>> from selfattn.nn import MultiHeadAttention
    >>> MultiHeadAttention.from_torch(torch.nn.MultiheadAttention(8, 2)).num_heads
    2
    """
    _refuse(
        {
            "add_bias_kv=True": module.bias_k is not None,
            "add_zero_attn=True": module.add_zero_attn,
            f"kdim={module.kdim} with vdim={module.vdim}": module.kdim != module.vdim,
        }
    )
    bias = module.in_proj_bias is not None
    layer = cls(module.embed_dim, module.num_heads, d_memory=module.kdim, bias=bias, dropout=module.dropout)
    layer.to(module.out_proj.weight).train(module.training)
    with torch.no_grad():
        for ours, theirs in _pairs(layer, module):
            ours.copy_(theirs)
    return layer


def to_torch(layer: Any) -> torch.nn.MultiheadAttention:
    """A `torch.nn.MultiheadAttention`, `batch_first`, that computes the same, with copies of the matrices.

    **True in its masks forbids.** Raises `ValueError` for options that it lacks; the message names them.

    >>> from selfattn.nn import MultiHeadAttention
    >>> MultiHeadAttention(8, 2).to_torch().embed_dim
    8
    """
    _refuse(
        {
            f"num_kv_heads={layer.num_kv_heads}": layer.num_kv_heads != layer.num_heads,
            f"positions={layer.positions}": layer.positions is not None,
            f"qk_norm={layer.query_norm}": not isinstance(layer.query_norm, torch.nn.Identity),
        }
    )
    module = torch.nn.MultiheadAttention(
        layer.d_model,
        layer.num_heads,
        dropout=layer.dropout,
        bias=layer.query.bias is not None,
        kdim=layer.d_memory,
        vdim=layer.d_memory,
        batch_first=True,
    )
    module.to(layer.output.weight).train(layer.training)
    with torch.no_grad():
        for ours, theirs in _pairs(layer, module):
            theirs.copy_(ours)
    return module


def _refuse(options: dict[str, bool]) -> None:
    given = ", ".join(option for option, is_given in options.items() if is_given)
    if given:
        raise ValueError(
            f"torch.nn.MultiheadAttention and selfattn.nn.MultiHeadAttention don't share {given}"
        )


def _pairs(layer: Any, module: torch.nn.MultiheadAttention) -> Iterator[tuple[Tensor, Tensor]]:
    """Each of our parameters beside torch's, or the part of torch's, that holds the same numbers."""
    weights = module.q_proj_weight, module.k_proj_weight, module.v_proj_weight
    if module.in_proj_weight is not None:
        weights = module.in_proj_weight.chunk(3)
    linears = layer.query, layer.key, layer.value, layer.output
    yield from zip((linear.weight for linear in linears), (*weights, module.out_proj.weight), strict=True)
    if module.in_proj_bias is not None:
        biases = *module.in_proj_bias.chunk(3), module.out_proj.bias
        yield from zip((linear.bias for linear in linears), biases, strict=True)
