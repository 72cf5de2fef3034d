"""Train the same small model from many seeds at once.

A model, its loss and its data are written for one seed. `Seeds` stacks the parameters of all of them along a
leading axis and `torch.func.vmap` runs them in one program. The seeds never mix: each has its own
initialization, data, gradient clipping and learning rate, so that it learns what it would learn alone.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.utils._pytree import tree_map


class Seeds:
    """The models that `make` builds under each seed, as one.

    Their parameters are `parameters`, by name, each ``(seeds, …)``. A seed may come twice, say to try several
    learning rates.

    >>> models = Seeds(lambda: torch.nn.Linear(3, 2), seeds=[0, 1, 1])
    >>> models.parameters["weight"].shape
    torch.Size([3, 2, 3])
    """

    def __init__(self, make: Callable[[], torch.nn.Module], seeds: Sequence[int]) -> None:
        self._make, self._seeds = make, seeds
        models = [_under(seed, make) for seed in seeds]
        self.parameters, self._buffers = stack_module_state(models)
        self._call = _Call(models[0])

    def __call__(self, f: Callable[..., Any], *data: Any) -> Any:
        """What ``f(model, *data)`` gives for each seed and its entry of the data, stacked.

        The data are tensors ``(seeds, …)`` or tuples of them; gradients flow to `parameters`.
        """

        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], data: tuple[Any, ...]) -> Any:
            state = {f"model.{name}": tensor for name, tensor in (parameters | buffers).items()}
            return functional_call(self._call, state, (f, *data))

        return vmap(one, randomness="different")(self.parameters, self._buffers, data)

    @torch.no_grad()
    def evaluate(self, f: Callable[..., Any], *data: Any) -> Any:
        """The same without gradients, and without dropout."""
        self._call.eval()
        try:
            return self(f, *data)
        finally:
            self._call.train()

    def __getitem__(self, place: int) -> torch.nn.Module:
        """A copy of one seed's model, an ordinary module."""
        model = _under(
            self._seeds[place], self._make
        )  # not the model that is called: vmap's tensors stick to it
        with torch.no_grad():
            for name, tensor in chain(model.named_parameters(), model.named_buffers()):
                tensor.copy_((self.parameters | self._buffers)[name][place])
        return model


class _Call(torch.nn.Module):
    """Lets `functional_call` run any function of a model, not its `forward` alone."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, f: Callable[..., Any], *data: Any) -> Any:
        return f(self.model, *data)


def _under(seed: int, make: Callable[[], Any]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def batches(draw: Callable[[torch.Generator], Any], seeds: Sequence[int]) -> Iterator[Any]:
    """Endless data: what `draw` makes of each seed's own random numbers, stacked.

    They aren't the numbers that the model of the same seed was made of.

    >>> next(batches(lambda source: torch.randint(10, (2,), generator=source), seeds=[0, 0])).shape
    torch.Size([2, 2])
    """
    sources = [torch.Generator().manual_seed(~seed) for seed in seeds]
    while True:
        yield tree_map(lambda *parts: torch.stack(parts), *(draw(source) for source in sources))


def clip_per_seed(gradients: Sequence[Tensor], largest: float) -> None:
    """Scale each seed's gradients in place so that their joint norm is at most `largest`."""
    rows = [gradient.reshape(len(gradient), -1) for gradient in gradients]
    norms = torch.stack([row.norm(dim=1) for row in rows]).norm(dim=0)
    factors = (largest / (norms + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(_along(factors, gradient))


def train(
    models: Seeds,
    loss: Callable[..., Tensor],
    data: Iterator[Any],
    *,
    steps: int,
    learning_rate: float | Sequence[float],
    warm_up: int = 20,
    clip: float = 1.0,
) -> Tensor:
    """Minimise with AdamW; give the losses of all steps, ``(steps, seeds)``.

    ``loss(model, batch)`` is one seed's, a number; `data` gives batches ``(seeds, …)``, such as `batches`.
    The learning rate, one for all or one for each seed, rises linearly over `warm_up` steps (1 is none) and
    is constant after. The settings are those of the pilots: betas (0.9, 0.98), no weight decay.
    """
    parameters = list(models.parameters.values())
    rates = torch.as_tensor(learning_rate, dtype=parameters[0].dtype).expand(len(parameters[0]))
    # torch's optimizers have one rate for all seeds. AdamW's step is proportional to it: each seed takes a
    # step at rate 1, then goes back all the way but its own rate.
    optimizer = torch.optim.AdamW(parameters, lr=1.0, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    history = []
    for step in range(steps):
        losses = models(loss, next(data))
        optimizer.zero_grad()
        losses.sum().backward()
        learning = [parameter for parameter in parameters if parameter.grad is not None]
        clip_per_seed([parameter.grad for parameter in learning], clip)
        share = rates * min(1.0, (step + 1) / warm_up)
        with torch.no_grad():
            before = [parameter.clone() for parameter in learning]
            optimizer.step()
            for parameter, old in zip(learning, before, strict=True):
                torch.lerp(old, parameter, _along(share, parameter), out=parameter)
        history.append(losses.detach())
    return torch.stack(history)


def _along(numbers: Tensor, tensor: Tensor) -> Tensor:
    """One number for each seed, so that it broadcasts to ``(seeds, …)``."""
    return numbers.reshape(-1, *[1] * (tensor.ndim - 1))
