"""`MultiHeadAttention` from and to torch's own module: the same numbers, under other names."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn import Linear, Module, Parameter

_NAMES = {"q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_weight", "in_proj_bias"}
_NAMES |= {"out_proj.weight", "out_proj.bias", "bias_k", "bias_v"}


@torch.inference_mode(False)  # what it makes may be trained, wherever it is made
def from_torch(cls: type, module: torch.nn.MultiheadAttention) -> Any:
    """A layer that computes what the module does, with copies of its matrices.

    Each parameter keeps its type, device and `requires_grad`. The layer is called differently: here **True in
    a mask means may attend, there it forbids**; the memory stands for both key and value; and the axes are
    always ``(batch, n, d_model)``, as there with `batch_first`.

    Raises `TypeError` for another module, `ValueError` for what has no counterpart here: options, a `forward`
    of a subclass's own, parameters under other names (parametrized, pruned, wrapped); the message names them.

    >>> from selfattn.nn import MultiHeadAttention
    >>> MultiHeadAttention.from_torch(torch.nn.MultiheadAttention(8, 2)).num_heads
    2
    """
    if not isinstance(module, torch.nn.MultiheadAttention):
        raise TypeError(f"expected a torch.nn.MultiheadAttention; got {_kind(module)}")
    strangers = sorted({name for name, _ in module.named_parameters()} - _NAMES)
    is_own = getattr(module.forward, "__func__", None) is torch.nn.MultiheadAttention.forward
    _refuse(
        {
            f"the forward of {_kind(module)}": not is_own,
            f"the parameters {', '.join(strangers)}": strangers,
            f"out_proj={module.out_proj}": not isinstance(module.out_proj, Linear),
        }
    )
    bias = module.in_proj_bias is not None
    _refuse(
        {
            "add_bias_kv=True": module.bias_k is not None,
            "add_zero_attn=True": module.add_zero_attn,
            f"kdim={module.kdim} with vdim={module.vdim}": module.kdim != module.vdim,
            "a bias of in_proj or out_proj alone": bias != (module.out_proj.bias is not None),
        }
    )
    like = module.out_proj.weight
    with like.device:
        layer = cls(
            module.embed_dim, module.num_heads, d_memory=module.kdim, bias=bias, dropout=module.dropout
        )
    layer.to(like.dtype).train(module.training)
    for owner, theirs, linears, ours in _shared(layer, module):
        packed = getattr(owner, theirs)
        for linear, part in zip(linears, packed.detach().chunk(len(linears)), strict=True):
            setattr(linear, ours, Parameter(part.clone(), packed.requires_grad))
    return layer


@torch.inference_mode(False)
def to_torch(layer: Any) -> torch.nn.MultiheadAttention:
    """A `torch.nn.MultiheadAttention`, `batch_first`, that computes the same, with copies of the matrices.

    **True in its masks forbids.** Each parameter keeps its type, device and `requires_grad`. Raises
    `ValueError` for what it lacks, and names it: options, a projection that is no plain `torch.nn.Linear` of
    the layer's shape, and different `requires_grad` of queries, keys and values, which it has in one matrix.

    >>> from selfattn.nn import MultiHeadAttention
    >>> MultiHeadAttention(8, 2).to_torch().embed_dim
    8
    """
    _refuse(
        {
            f"num_kv_heads={layer.num_kv_heads}": layer.num_kv_heads != layer.num_heads,
            f"positions={layer.positions}": layer.positions is not None,
            f"query_norm={layer.query_norm}": not isinstance(layer.query_norm, torch.nn.Identity),
            f"key_norm={layer.key_norm}": not isinstance(layer.key_norm, torch.nn.Identity),
        }
    )
    d, d_memory = layer.d_model, layer.d_memory
    shapes = {"query": (d, d), "key": (d, d_memory), "value": (d, d_memory), "output": (d, d)}
    parts = {name: getattr(layer, name) for name in shapes}
    bias = any(getattr(part, "bias", None) is not None for part in parts.values())
    _refuse({f"{name}={part}": not _is_plain(part, shapes[name], bias) for name, part in parts.items()})
    module = torch.nn.MultiheadAttention(
        d,
        layer.num_heads,
        dropout=layer.dropout,
        bias=bias,
        kdim=d_memory,
        vdim=d_memory,
        batch_first=True,
        device=layer.output.weight.device,
    ).train(layer.training)
    for owner, theirs, linears, ours in _shared(layer, module):
        tensors = [getattr(linear, ours) for linear in linears]
        trained = [tensor.requires_grad for tensor in tensors]
        _refuse({f"requires_grad={trained} of the {ours} of query, key, value": len({*trained}) > 1})
        setattr(owner, theirs, Parameter(torch.cat([tensor.detach() for tensor in tensors]), trained[0]))
    return module


def _refuse(options: dict[str, Any]) -> None:
    given = ", ".join(option for option, is_given in options.items() if is_given)
    if given:
        raise ValueError(
            f"torch.nn.MultiheadAttention and selfattn.nn.MultiHeadAttention don't share {given}"
        )


def _kind(module: Any) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _is_plain(part: Module, shape: tuple[int, int], bias: bool) -> bool:
    """Whether all that a projection does is in a matrix of this shape, and in a bias."""
    names = {name for name, _ in part.named_parameters()}
    plain = type(part) is Linear and names == ({"weight", "bias"} if bias else {"weight"})
    return plain and part.weight.shape == shape


def _shared(layer: Any, module: torch.nn.MultiheadAttention) -> Iterator[tuple[Module, str, Sequence, str]]:
    """Where torch has a parameter, which of our projections lie in it one below the other, and as what."""
    inputs = layer.query, layer.key, layer.value
    if module.in_proj_weight is not None:
        yield module, "in_proj_weight", inputs, "weight"
    else:
        for name, linear in zip("qkv", inputs, strict=True):
            yield module, f"{name}_proj_weight", [linear], "weight"
    yield module.out_proj, "weight", [layer.output], "weight"
    if module.in_proj_bias is not None:
        yield module, "in_proj_bias", inputs, "bias"
        yield module.out_proj, "bias", [layer.output], "bias"
