"""Self-attention, written once for every array library that follows the Python array API standard.

The forward mathematics below runs unchanged on NumPy arrays and on torch tensors (with gradients):

>>> import numpy as np
>>> import selfattn as sa
>>> x = np.eye(3)
>>> sa.attention(x, x, x, mask=sa.causal).round(2)
array([[1.  , 0.  , 0.  ],
       [0.36, 0.64, 0.  ],
       [0.26, 0.26, 0.47]])
"""

from importlib import import_module
from typing import Any

from .attention import attention, attention_weights
from .backward import AttentionGradients, attention_backward
from .flash import flash_attention
from .heads import merge_heads, multi_head_attention, split_heads
from .linear import LinearState, elu_plus_one, linear_attention, linear_attention_step
from .mask import Mask
from .masks import causal, documents, padding, prefix, sliding_window
from .positions import alibi, relative_buckets, rotary, sinusoidal
from .scores import additive, bilinear, cosine, dot_product, scaled_dot_product
from .softmax import softmax, softmax_backward, softmax_jacobian

__version__ = "0.1.0"

__all__ = [
    "AttentionGradients",
    "LinearState",
    "Mask",
    "additive",
    "alibi",
    "attention",
    "attention_backward",
    "attention_weights",
    "bilinear",
    "causal",
    "cosine",
    "documents",
    "dot_product",
    "elu_plus_one",
    "flash_attention",
    "linear_attention",
    "linear_attention_step",
    "merge_heads",
    "multi_head_attention",
    "padding",
    "prefix",
    "relative_buckets",
    "rotary",
    "scaled_dot_product",
    "sinusoidal",
    "sliding_window",
    "softmax",
    "softmax_backward",
    "softmax_jacobian",
    "split_heads",
]


def __getattr__(name: str) -> Any:
    if name == "nn":  # loaded when first asked for, since it needs torch
        return import_module(f"{__name__}.nn")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
