"""Recurrent layers for `torch.func.vmap`: torch's own have no rule for it."""

import torch
from torch import Tensor
from torch.nn import GRUCell, LSTMCell
from torch.nn.functional import linear


def states(cell: LSTMCell | GRUCell, x: Tensor) -> Tensor:
    """The states after each token of ``(batch, n, d_in)``, ``(batch, n, width)``.

    An LSTM (Hochreiter & Schmidhuber 1997; its forget gate: Gers, Schmidhuber & Cummins 2000) or a GRU (Cho
    et al. 2014), whose state is zero at first.

    >>> states(LSTMCell(3, 5), torch.ones(2, 7, 3)).shape
    torch.Size([2, 7, 5])
    """
    hidden = memory = x.new_zeros(x.shape[0], cell.hidden_size)
    found = []
    for given in linear(x, cell.weight_ih, cell.bias_ih).unbind(1):
        kept = linear(hidden, cell.weight_hh, cell.bias_hh)
        if isinstance(cell, LSTMCell):
            i, f, g, o = (given + kept).chunk(4, -1)
            memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * memory.tanh()
        else:
            r, z, new = given.chunk(3, -1)
            kept_r, kept_z, kept_new = kept.chunk(3, -1)
            update = (z + kept_z).sigmoid()
            proposed = (new + (r + kept_r).sigmoid() * kept_new).tanh()
            hidden = torch.lerp(proposed, hidden, update)
        found.append(hidden)
    return torch.stack(found, 1)
