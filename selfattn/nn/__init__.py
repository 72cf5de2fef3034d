"""The mechanism with parameters: torch modules over the functions of the floors below.

>>> import selfattn as sa
>>> sa.nn.MultiHeadAttention(8, 2).num_heads
2
"""

from .cache import KVCache
from .multi_head import MultiHeadAttention
from .positions import Alibi, Positions, RelativeBias, Rotary

__all__ = ["Alibi", "KVCache", "MultiHeadAttention", "Positions", "RelativeBias", "Rotary"]
