"""Layers and inputs whose numbers are the same in every run."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from selfattn.nn import Alibi, MultiHeadAttention, RelativeBias, Rotary

exact = partial(assert_close, rtol=0, atol=0)
close = {torch.float64: {"rtol": 1e-12, "atol": 1e-12}, torch.float32: {"rtol": 1e-6, "atol": 1e-6}}

POSITIONS = {
    "none": lambda: None,
    "rotary": Rotary,
    "alibi": Alibi,
    "relative": lambda: RelativeBias(4, num_buckets=8, max_distance=6),
}
every_position = pytest.mark.parametrize("positions", POSITIONS)


def numbers(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def filled(module, dtype=torch.float64):
    """The module with every parameter drawn at random, so that none hides by being zero or one."""
    module.to(dtype)
    for seed, parameter in enumerate(module.parameters()):
        torch.nn.init.normal_(
            parameter, std=parameter.shape[-1] ** -0.5, generator=torch.Generator().manual_seed(100 + seed)
        )
    return module


def layer(positions="none", dtype=torch.float64, **options):
    return filled(MultiHeadAttention(8, 4, positions=POSITIONS[positions](), **options), dtype)


def chunks(x, sizes):
    return x.split([*sizes, x.shape[-2] - sum(sizes)], dim=-2)
