"""Train the same small model from many seeds at once.

Every parameter and every batch has a leading axis, one entry a seed. The seeds never mix: each has its own
initialization, its own data and its own gradient clipping, so that it learns what it would learn alone.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One source of random numbers per seed."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def per_seed(draw: Callable[[torch.Generator], Tensor], sources: Sequence[torch.Generator]) -> Tensor:
    """What `draw` gives for each seed's generator, stacked along a new leading axis."""
    return torch.stack([draw(source) for source in sources])


def clip_per_seed(gradients: Sequence[Tensor], largest: float) -> None:
    """Scale each seed's gradients in place so that their joint norm is at most `largest`."""
    norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
    factor = (largest / (norms + 1e-12)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor.reshape(-1, *[1] * (gradient.ndim - 1)))


def train(
    loss: Callable[[], Tensor],
    parameters: Sequence[Tensor],
    *,
    steps: int,
    learning_rate: float,
    warm_up: int = 20,
    clip: float = 1.0,
) -> Tensor:
    """Minimise with AdamW, the learning rate rising linearly over `warm_up` steps and constant after.

    `loss` draws a fresh batch and gives one loss per seed, ``(seeds,)``. Returns the losses of all steps,
    ``(steps, seeds)``. The settings are those of the pilots: betas (0.9, 0.98), no weight decay.
    """
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    rising = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warm_up))
    history = []
    for _ in range(steps):
        losses = loss()
        optimizer.zero_grad()
        losses.sum().backward()
        clip_per_seed([parameter.grad for parameter in parameters], clip)
        optimizer.step()
        rising.step()
        history.append(losses.detach())
    return torch.stack(history)
