"""Recall of one marked token among distractors, at any distance.

Four kinds of layers of equal size are compared.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import selfattn as sa

from ..training import recurrence, sweep
from ..training.seeds import Seeds, batches

VALUES = 16
CONVOLUTION_WIDTH = 20  # six convolutions, for n = 64, are then as large as the others


class Batch(NamedTuple):
    """Tokens ``(batch, n)``; the answer and how far back it stands, each ``(batch,)``."""

    tokens: Tensor
    answer: Tensor
    distance: Tensor


def draw(source: torch.Generator, size: int, n: int) -> Batch:
    """`size` fresh sequences of random values.

    One value of each is marked; the last token asks for it. A marked value v is the token
    `VALUES` + v, the question is token 2 `VALUES`.
    """
    tokens = torch.randint(VALUES, (size, n), generator=source)
    distance = torch.randint(1, n, (size, 1), generator=source)
    place = n - 1 - distance
    answer = tokens.gather(1, place)
    tokens = tokens.scatter(1, place, answer + VALUES)
    tokens[:, -1] = 2 * VALUES
    return Batch(tokens, answer[:, 0], distance[:, 0])


class Attention(torch.nn.Module):
    """One pre-norm block whose only query is the last token.

    Nothing tells it where tokens stand.
    """

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.width = d_model
        self.block = sa.nn.Block(
            sa.nn.MultiHeadAttention(d_model, 2),
            sa.nn.FeedForward(d_model, d_ff),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The last token after the block, ``(batch, width)``."""
        block, last = self.block, x[:, -1:]
        normed = block.attention_norm(x)
        y = last + block.attention(normed[:, -1:], normed)
        return block.connect(y, block.feed_forward, block.feed_forward_norm)[:, 0]


class Convolutions(torch.nn.Module):
    """Causal convolutions of two taps, reaching ever farther, and skip connections.

    (Bai et al. 2018.)
    """

    def __init__(self, d_model: int, n: int) -> None:
        super().__init__()
        self.width = d_model
        self.reaches = [2**i for i in range((n - 1).bit_length())]
        taps = [torch.nn.Linear(2 * d_model, d_model) for _ in self.reaches]
        self.taps = torch.nn.ModuleList(taps)

    def forward(self, x: Tensor) -> Tensor:
        """The last token, which has seen all, ``(batch, width)``."""
        for reach, taps in zip(self.reaches, self.taps, strict=True):
            before = F.pad(x, (0, 0, reach, 0))[:, : x.shape[1]]
            x = x + torch.relu(taps(torch.cat([x, before], -1)))
        return x[:, -1]


class Recurrent(torch.nn.Module):
    """An LSTM or a GRU: see `recurrence.states`."""

    def __init__(self, cell: torch.nn.Module) -> None:
        super().__init__()
        self.cell, self.width = cell, cell.hidden_size

    def forward(self, x: Tensor) -> Tensor:
        """The state after the last token, ``(batch, width)``."""
        return recurrence.states(self.cell, x)[:, -1]


def lstm(d_model: int) -> Recurrent:
    """An LSTM that starts by remembering (Gers et al. 2000).

    The added bias of its forget gate is 1.
    """
    cell = torch.nn.LSTMCell(d_model, d_model)
    with torch.no_grad():
        cell.bias_ih[d_model : 2 * d_model] = 1.0
        cell.bias_hh[d_model : 2 * d_model] = 0.0
    return Recurrent(cell)


# Given n: d_model, and what reads.
ARMS: dict[str, Callable[[int], tuple[int, torch.nn.Module]]] = {
    "attention": lambda n: (24, Attention(24, 48)),
    "GRU": lambda n: (24, Recurrent(torch.nn.GRUCell(24, 29))),
    "LSTM": lambda n: (24, lstm(24)),
    "convolutions": lambda n: (CONVOLUTION_WIDTH, Convolutions(CONVOLUTION_WIDTH, n)),
}


class Recall(torch.nn.Module):
    """Embeddings, an arm that reads them in order, and a readout of what it ends with."""

    def __init__(self, arm: str, n: int) -> None:
        super().__init__()
        d_model, self.read = ARMS[arm](n)
        self.embedding = torch.nn.Embedding(2 * VALUES + 1, d_model)
        self.readout = torch.nn.Linear(self.read.width, VALUES)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the answer, ``(batch, values)``."""
        return self.readout(self.read(self.embedding(tokens)))


def loss(model: torch.nn.Module, given: Batch) -> Tensor:
    """Cross-entropy in nats."""
    return F.cross_entropy(model(given.tokens), given.answer)


TRAINED = ("train",)  # whose numbers agree within their arm's range


def train(
    arm: str,
    n: int,
    parts: int,
    **options: Any,
) -> list[dict[str, Any]]:
    """Train one arm from all seeds at each learning rate at once: see `sweep.trained`.

    One row a seed, rate and part. The distances 1 … n − 1 are cut into `parts` of equal
    size, from near to far; `accuracy` is that on unseen examples of a part, `loss` the
    mean over all steps, `parameters` how many numbers were learnt.
    """
    make, task = partial(Recall, arm, n), partial(draw, n=n)
    models, rows, _ = sweep.trained(make, task, loss, **options)
    unseen = sweep.unseen(task, [row["seed"] for row in rows])
    answers = models.evaluate(lambda model, given: model(given.tokens).argmax(-1), unseen)
    right = answers == unseen.answer
    part = (unseen.distance - 1) * parts // (n - 1)
    size = sum(tensor[0].numel() for tensor in models.parameters.values())
    return [
        row
        | {
            "part": p,
            "accuracy": right[i][part[i] == p].float().mean().item(),
            "parameters": size,
        }
        for i, row in enumerate(rows)
        for p in range(parts)
    ]


def gradients(arm: str, n: int, seeds: list[int]) -> list[dict[str, Any]]:
    """How strongly the last output depends on each earlier token before training.

    One row a seed. `curve` has, for the lags 1 … n − 1, the norm of the gradient of a
    random direction of the output with respect to the embedding at that lag, averaged
    over 32 sequences.
    """
    models = Seeds(partial(Recall, arm, n), seeds)
    given = next(batches(partial(draw, size=32, n=n), seeds))
    x = models(lambda model, given: model.embedding(given.tokens), given)
    x = x.detach().requires_grad_()
    output = models(lambda model, x: model.read(x), x)
    direction = torch.randn(output.shape[-1], generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((output @ direction).sum(), x)
    curves = gradient.norm(dim=-1).mean(1)[:, :-1].flip(-1)
    pairs = zip(seeds, curves.tolist(), strict=True)
    return [{"seed": seed, "curve": curve} for seed, curve in pairs]
