"""What has to wait for what: chains of dependent matrix products, and their times."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import selfattn as sa

from ..training import recurrence

D_MODEL, HEADS = 64, 4
# What autograd calls matrix products, and how many each stands for, one after the other.
PRODUCTS = {
    "MmBackward0": 1,
    "AddmmBackward0": 1,
    "BmmBackward0": 1,
    "DifferentiableBackward": 2,  # flash attention's tiles, side by side: scores, then the weighted sum
}


def attention(x: Tensor) -> Tensor:
    """One layer of causal attention over all tokens ``(n, d_model)`` at once."""
    return sa.nn.MultiHeadAttention(D_MODEL, HEADS)(x, mask=sa.causal)


def generation(x: Tensor) -> Tensor:
    """The same layer when its own outputs are the next tokens.

    Token i + 1 is what token i gathers. Keys and values of earlier tokens are kept, as a
    cache does.
    """
    layer = sa.nn.MultiHeadAttention(D_MODEL, HEADS)
    parts = layer.query, layer.key, layer.value
    token, keys, values, outputs = x[:1], [], [], []
    for _ in range(len(x)):
        q, k, v = (sa.split_heads(part(token), HEADS) for part in parts)
        keys, values = [*keys, k], [*values, v]
        found = sa.attention(q, torch.cat(keys, -2), torch.cat(values, -2))
        token = layer.output(sa.merge_heads(found))
        outputs.append(token)
    return torch.cat(outputs)


def lstm(x: Tensor) -> Tensor:
    """A recurrent layer: see `recurrence.states`.

    Its input products are done for all tokens at once.
    """
    cell = torch.nn.LSTMCell(D_MODEL, D_MODEL)
    return recurrence.states(cell, x[None])[0]


def convolution(x: Tensor) -> Tensor:
    """Causal convolutions of two taps, each reaching twice as far.

    They end when the last token sees the first.
    """
    reach = 1
    while reach < len(x):
        before = torch.nn.functional.pad(x, (0, 0, reach, 0))[: len(x)]
        taps = torch.randn(2 * D_MODEL, D_MODEL) / D_MODEL**0.5
        x = torch.relu(torch.cat([x, before], -1) @ taps)
        reach *= 2
    return x


ARMS: dict[str, Callable[[Tensor], Tensor]] = {
    "attention": attention,
    "convolution": convolution,
    "LSTM": lstm,
    "generation": generation,
}


def longest_chain(output: Tensor) -> int:
    """How many matrix products lie on the longest path of autograd's graph to `output`.

    Products on one path depend on each other: they can't be computed at the same time.

    >>> w = torch.eye(2, requires_grad=True)
    >>> longest_chain((w @ w) @ w + w @ w)
    2
    """
    depth: dict[Any, int] = {}
    due = [output.grad_fn]
    while due:
        node = due[-1]
        below = [child for child, _ in node.next_functions if child is not None]
        if missing := [child for child in below if child not in depth]:
            due += missing
            continue
        deepest = max((depth[child] for child in below), default=0)
        depth[due.pop()] = deepest + PRODUCTS.get(node.name(), 0)
    return depth[output.grad_fn]


def count(arm: str, lengths: list[int]) -> list[dict[str, Any]]:
    """The longest chain of one arm at each length: one row a length."""
    x = torch.ones(max(lengths), D_MODEL, requires_grad=True)
    return [{"n": n, "chain": longest_chain(ARMS[arm](x[:n]))} for n in lengths]


TIMED = ("clock",)  # whose numbers are times: positive, and never the same


def clock(lengths: list[int], repetitions: int) -> list[dict[str, Any]]:
    """Time a fast attention layer and torch's own LSTM in turn.

    One row a length and repetition. Processor milliseconds, forward alone and forward
    with backward. The attention is exact and never holds all n × n weights. Times differ
    from run to run: no claim rests on them.
    """
    layer = sa.nn.MultiHeadAttention(D_MODEL, HEADS)
    parts = layer.query, layer.key, layer.value
    recurrent = torch.nn.LSTM(D_MODEL, D_MODEL)

    def attend(x: Tensor) -> Tensor:
        q, k, v = (sa.split_heads(part(x), HEADS) for part in parts)
        return layer.output(sa.merge_heads(sa.flash_attention(q, k, v, mask=sa.causal)))

    def recur(x: Tensor) -> Tensor:
        return recurrent(x)[0]

    rows = []
    for n in lengths:
        x = torch.randn(n, D_MODEL)
        for repetition in range(-1, repetitions):  # the first is to warm up
            row = {"n": n, "repetition": repetition}
            for name, run in (("attention", attend), ("LSTM", recur)):
                start = time.process_time()
                with torch.no_grad():
                    run(x)
                middle = time.process_time()
                run(x).sum().backward()
                row[f"{name} forward"] = 1e3 * (middle - start)
                row[f"{name} training"] = 1e3 * (time.process_time() - middle)
            rows += [row] if repetition >= 0 else []
    return rows
