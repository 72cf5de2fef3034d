"""A recurrent layer for `torch.func.vmap`: torch's own LSTM has no rule for it."""

import torch
from torch import Tensor


def lstm_states(cell: torch.nn.LSTMCell, x: Tensor) -> Tensor:
    """The states after each token of ``(batch, n, d_in)``, ``(batch, n, width)``.

    The first starts at zero.

    >>> lstm_states(torch.nn.LSTMCell(3, 5), torch.ones(2, 7, 3)).shape
    torch.Size([2, 7, 5])
    """
    hidden = memory = x.new_zeros(x.shape[0], cell.hidden_size)
    states = []
    inputs = torch.nn.functional.linear(x, cell.weight_ih, cell.bias_ih + cell.bias_hh)
    for given in inputs.unbind(1):
        i, f, g, o = (given + hidden @ cell.weight_hh.T).chunk(4, -1)
        memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * memory.tanh()
        states.append(hidden)
    return torch.stack(states, 1)
