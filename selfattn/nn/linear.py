"""The linear maps of all layers, and how they start."""

import torch


def scaled_linear(d_in: int, d_out: int, bias: bool = True) -> torch.nn.Linear:
    """A linear map that keeps variance 1: normal numbers of variance 1 / fan-in, and added biases of zero.

    (LeCun et al. 1998, section 4.6.)

    >>> scaled_linear(4, 2).bias.tolist()
    [0.0, 0.0]
    """
    linear = torch.nn.Linear(d_in, d_out, bias)
    torch.nn.init.normal_(linear.weight, std=d_in**-0.5)
    if bias:
        torch.nn.init.zeros_(linear.bias)
    return linear
