"""The mechanism with parameters: torch modules over the functions of the floors below.

>>> import selfattn as sa
>>> sa.nn.MultiHeadAttention(8, 2).num_heads
2
"""

from .block import Block, FeedForward, post_norm, pre_norm
from .cache import KVCache
from .model import Transformer
from .multi_head import MultiHeadAttention
from .positions import Alibi, Learned, Positions, RelativeBias, Rotary, Sinusoidal

__all__ = [
    "Alibi",
    "Block",
    "FeedForward",
    "KVCache",
    "Learned",
    "MultiHeadAttention",
    "Positions",
    "RelativeBias",
    "Rotary",
    "Sinusoidal",
    "Transformer",
    "post_norm",
    "pre_norm",
]
