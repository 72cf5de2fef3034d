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

from .attention import attention, attention_weights
from .heads import merge_heads, multi_head_attention, split_heads
from .masks import Mask, causal, padding, sliding_window
from .scores import additive, bilinear, cosine, dot_product, scaled_dot_product
from .softmax import softmax, softmax_jacobian

__all__ = [
    "Mask",
    "additive",
    "attention",
    "attention_weights",
    "bilinear",
    "causal",
    "cosine",
    "dot_product",
    "merge_heads",
    "multi_head_attention",
    "padding",
    "scaled_dot_product",
    "sliding_window",
    "softmax",
    "softmax_jacobian",
    "split_heads",
]
