"""How fast is `flash_attention`, beside its peers? `python -m benchmarks.attention`.

Float32, 4 heads, d_k = 64. Every row is measured in rounds: in each, ours and the peers run one after the
other, so that what disturbs the machine disturbs all of them, and its ratio is their time to ours.
A row gives the median of the rounds, and their quartiles. The run prints Markdown.
"""

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention as sdpa
from torch.utils.benchmark import Timer
from tqdm import tqdm

import selfattn as sa
from experiments.engine.machine import processor

HEADS, D_K, ROUNDS, SECONDS = 4, 64, 9, 0.2  # of a round, at least, for each
Call = Callable[[], Any]


def seconds(call: Call) -> float:
    """One round of a call: the mean over as many repetitions as fill it."""
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    once = timer.timeit(1).mean
    return timer.timeit(max(1, int(SECONDS / once))).mean


def race(ours: Call, peers: dict[str, Call]) -> dict[str, np.ndarray]:
    """How many times as long as ours each peer takes, in every round."""
    for call in (ours, *peers.values()):  # compiles, and finds its memory
        call()
    rounds = [[seconds(call) for call in (ours, *peers.values())] for _ in range(ROUNDS)]
    own, *others = np.array(rounds).T
    return {name: times / own for name, times in zip(peers, others, strict=True)}


def tensors(n: int, batch: int = 1, gradients: bool = False) -> list[torch.Tensor]:
    """Queries, keys and values, ``(batch, heads, n, d_k)``."""
    return [torch.randn(batch, HEADS, n, D_K, requires_grad=gradients) for _ in range(3)]


def forward(n: int, mask: sa.Mask, rule: Callable | None = None, batch: int = 1) -> dict[str, np.ndarray]:
    """A masked forward pass; `rule` is the mask as FlexAttention wants it."""
    q, k, v = tensors(n, batch)
    dense = mask.dense(n, n, like=q)
    peers = {"SDPA, boolean mask": lambda: sdpa(q, k, v, attn_mask=dense)}
    if rule is not None:
        blocks, flex = create_block_mask(rule, None, None, n, n, device="cpu"), torch.compile(flex_attention)
        peers["FlexAttention, compiled"] = lambda: flex(q, k, v, block_mask=blocks)
    return race(lambda: sa.flash_attention(q, k, v, mask=mask), peers)


def forward_and_backward(n: int, mask: sa.Mask, batch: int = 1) -> dict[str, np.ndarray]:
    """The same with gradients. FlexAttention has none on a processor."""
    qkv, towards = tensors(n, batch, gradients=True), torch.randn(batch, HEADS, n, D_K)
    dense = mask.dense(n, n, like=towards)

    def gradients(attend: Call) -> Call:
        return lambda: torch.autograd.grad(attend(), qkv, towards)

    peer = gradients(lambda: sdpa(*qkv, attn_mask=dense))
    return race(gradients(lambda: sa.flash_attention(*qkv, mask=mask)), {"SDPA, boolean mask": peer})


def short(n: int, gradients: bool) -> dict[str, np.ndarray]:
    """Many sequences of 1 to n tokens, 8192 with their padding: what a batch of sentences is."""
    batch = 8192 // n
    lengths = np.random.default_rng(0).integers(1, n, batch, endpoint=True)
    return (forward_and_backward if gradients else forward)(n, sa.padding(lengths), batch=batch)


def unmasked(n: int, causal: bool) -> dict[str, np.ndarray]:
    """Where torch's kernel is used whole, a ratio below one is what asking costs."""
    q, k, v = tensors(n)
    mask = sa.causal if causal else None
    peer = {f"SDPA, is_causal={causal}": lambda: sdpa(q, k, v, is_causal=causal)}
    return race(lambda: sa.flash_attention(q, k, v, mask=mask), peer)


def in_numpy(n: int) -> dict[str, np.ndarray]:
    """Against the three lines of a textbook, as they are usually written and with the type kept."""
    q, k, v = (np.random.default_rng(0).standard_normal((3, HEADS, n, D_K))).astype(np.float32)

    def textbook(root: Any) -> Call:
        def attend() -> np.ndarray:
            scores = q @ k.mT / root
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            return weights / weights.sum(axis=-1, keepdims=True) @ v

        return attend

    peers = {
        "textbook, / np.sqrt(d_k), which makes float64": textbook(np.sqrt(D_K)),
        "textbook, float32 kept": textbook(np.float32(np.sqrt(D_K))),
        "sa.attention": lambda: sa.attention(q, k, v),
    }
    return race(lambda: sa.flash_attention(q, k, v), peers)


def cases() -> dict[str, Callable[[], dict[str, np.ndarray]]]:
    """Every row group of the table."""
    ids = np.arange(4096) * 16 // 4096
    packed = torch.tensor(ids)
    lengths = [1024, 2048, 3072, 4096]
    window, documents, prefix = sa.sliding_window(255), sa.documents(ids), sa.causal | sa.prefix(512)
    return {
        "window of 256, n = 8192": lambda: forward(8192, window, lambda b, h, i, j: (j <= i) & (j > i - 256)),
        "16 documents, n = 4096": lambda: forward(4096, documents, lambda b, h, i, j: packed[i] == packed[j]),
        "causal, prefix of 512, n = 4096": lambda: forward(
            4096, prefix, lambda b, h, i, j: (j <= i) | (j < 512)
        ),
        f"padding to 4096 of {lengths}": lambda: forward(4096, sa.padding(lengths), batch=4),
        "window of 256, n = 4096, forward and backward": lambda: forward_and_backward(4096, window),
        "16 documents, n = 4096, forward and backward": lambda: forward_and_backward(4096, documents),
        "causal, prefix of 512, n = 4096, forward and backward": lambda: forward_and_backward(4096, prefix),
        "512 sequences of up to 16": lambda: short(16, gradients=False),
        "128 sequences of up to 64": lambda: short(64, gradients=False),
        "16 sequences of up to 512": lambda: short(512, gradients=False),
        "512 sequences of up to 16, forward and backward": lambda: short(16, gradients=True),
        "128 sequences of up to 64, forward and backward": lambda: short(64, gradients=True),
        "16 sequences of up to 512, forward and backward": lambda: short(512, gradients=True),
        "every pair, n = 4096": lambda: unmasked(4096, causal=False),
        "causal, n = 4096": lambda: unmasked(4096, causal=True),
        "NumPy, every pair, n = 2048": lambda: in_numpy(2048),
    }


def matrix_products() -> str:
    """Floating-point operations a second of float32 matrix products, 2048 × 2048."""
    square = np.random.default_rng(0).standard_normal((2048, 2048)).astype(np.float32)
    rates = {"NumPy": square, "torch": torch.tensor(square)}
    measured = {name: 2 * 2048**3 / seconds(lambda x=x: x @ x) / 1e9 for name, x in rates.items()}
    return ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in measured.items())


def main() -> None:
    """Print the table."""
    print(f"Machine: {processor()}, {torch.get_num_threads()} threads; torch {version('torch')},", end=" ")
    print(f"NumPy {version('numpy')}. Matrix products: {matrix_products()}.\n")
    print("| case | peer | times as long as ours (quartiles) |\n| --- | --- | --- |")
    for case, measure in tqdm(cases().items(), disable=None):
        for peer, ratios in measure().items():
            low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
            print(f"| {case} | {peer} | **{middle:.2f}** ({low:.2f}–{high:.2f}) |", flush=True)


if __name__ == "__main__":
    main()
