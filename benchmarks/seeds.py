"""How much faster do seeds train together than one after the other? `python -m benchmarks.seeds`.

Both sides train the same two-layer language model for a few steps on one thread, with the same optimizer and
clipping. Times are processor time, in milliseconds for a step of all seeds.
"""

import itertools
import time

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.benchmark import Compare, Timer

import selfattn as sa
from experiments.training.seeds import Seeds, train
from selfattn.nn import Block, FeedForward, Learned, MultiHeadAttention, Transformer

VOCABULARY, STEPS = 32, 4
SIZES = [  # d_model, n, batch, seeds
    (16, 16, 8, 8),
    (16, 16, 8, 16),
    (32, 32, 8, 8),
    (32, 32, 16, 8),
    (32, 32, 32, 8),
    (64, 64, 8, 8),
    (64, 64, 16, 8),
]


def loss(model: torch.nn.Module, tokens: Tensor) -> Tensor:
    """Cross-entropy of the next token."""
    logits = model(tokens[:, :-1], mask=sa.causal)
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def one_after_the_other(models: list[torch.nn.Module], data: Tensor) -> None:
    """Each seed in a loop of its own."""
    for model, tokens in zip(models, data, strict=True):
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0, fused=True)
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss(model, tokens).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()


def together(models: Seeds, data: Tensor) -> None:
    """All seeds in one program."""
    train(models, loss, itertools.repeat(data), steps=STEPS, learning_rate=3e-3)


def main() -> None:
    """Print the table and the ratios."""
    torch.set_num_threads(1)
    found = []
    for d_model, n, batch, seeds in SIZES:

        def make(d_model: int = d_model, n: int = n) -> torch.nn.Module:
            blocks = [Block(MultiHeadAttention(d_model, 4), FeedForward(d_model)) for _ in range(2)]
            return Transformer(VOCABULARY, blocks, positions=Learned(n, d_model))

        data = torch.randint(VOCABULARY, (seeds, batch, n + 1))
        sides = {
            "loop": (one_after_the_other, [make() for _ in range(seeds)]),
            "together": (together, Seeds(make, range(seeds))),
        }
        size, times = f"d_model={d_model}, n={n}, batch={batch}, seeds={seeds}", []
        for name, (run, models) in sides.items():
            timer = Timer(
                "run(models, data)",
                globals={"run": run, "models": models, "data": data},
                label=f"{STEPS} steps of all seeds",
                sub_label=size,
                description=name,
                timer=time.process_time,
            )
            found.append(timer.blocked_autorange(min_run_time=2.0))
            times.append(found[-1].median)
        print(f"{size}: {times[1] / STEPS * 1e3:.1f} ms a step, {times[0] / times[1]:.2f} times as fast")
    Compare(found).print()


if __name__ == "__main__":
    main()
