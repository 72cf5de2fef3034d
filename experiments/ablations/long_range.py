"""Recall of one marked token among distractors, at any distance, by four kinds of layers of equal size."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import selfattn as sa

from .. import training

VALUES = 16
D_MODEL = 24


class Batch(NamedTuple):
    """Tokens ``(batch, n)``, the answer and the distance at which it stands, each ``(batch,)``."""

    tokens: Tensor
    answer: Tensor
    distance: Tensor


def draw(source: torch.Generator, size: int, n: int) -> Batch:
    """`size` fresh sequences of random values; one of them is marked; the last token asks for it.

    A marked value v is the token `VALUES` + v, the question is token 2 `VALUES`.
    """
    tokens = torch.randint(VALUES, (size, n), generator=source)
    distance = torch.randint(1, n, (size, 1), generator=source)
    place = n - 1 - distance
    answer = tokens.gather(1, place)
    tokens = tokens.scatter(1, place, answer + VALUES)
    tokens[:, -1] = 2 * VALUES
    return Batch(tokens, answer[:, 0], distance[:, 0])


class Recurrent(torch.nn.Module):
    """An LSTM (Hochreiter & Schmidhuber 1997) or a GRU (Cho et al. 2014), which vmap can run."""

    def __init__(self, cell: torch.nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        """The state after the last token, ``(batch, width)``."""
        cell = self.cell
        hidden = memory = x.new_zeros(x.shape[0], cell.hidden_size)
        for given in F.linear(x, cell.weight_ih, cell.bias_ih).unbind(1):
            kept = F.linear(hidden, cell.weight_hh, cell.bias_hh)
            if isinstance(cell, torch.nn.LSTMCell):
                i, f, g, o = (given + kept).chunk(4, -1)
                memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()
                hidden = o.sigmoid() * memory.tanh()
            else:
                (r, z, new), (kept_r, kept_z, kept_new) = given.chunk(3, -1), kept.chunk(3, -1)
                update = (z + kept_z).sigmoid()
                hidden = torch.lerp((new + (r + kept_r).sigmoid() * kept_new).tanh(), hidden, update)
        return hidden
