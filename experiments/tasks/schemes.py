"""One Transformer, told in several ways, or not at all, where its tokens stand."""

from functools import partial
from typing import Any

from selfattn.nn import (
    Alibi,
    Block,
    FeedForward,
    Learned,
    MultiHeadAttention,
    RelativeBias,
    Rotary,
    Sinusoidal,
    Transformer,
)

LAYERS, HEADS = 2, 4
ADDED = {  # to the embeddings
    "learned": Learned,
    "sinusoidal": lambda n, d_model: Sinusoidal(),
}
IN_ATTENTION = {"RoPE": Rotary, "ALiBi": Alibi, "T5": partial(RelativeBias, HEADS)}


def transformer(
    scheme: str,
    vocabulary: int,
    *,
    longest: int,
    d_model: int,
    **buckets: Any,
) -> Transformer:
    """Two layers, for up to `longest` tokens; `buckets` are the options of T5's bias.

    All schemes share their matrices: what they add is drawn last.
    """
    order = IN_ATTENTION.get(scheme, lambda: None)
    options = buckets if scheme == "T5" else {}
    blocks = [
        Block(
            MultiHeadAttention(d_model, HEADS, positions=order(**options)),
            FeedForward(d_model, 2 * d_model),
        )
        for _ in range(LAYERS)
    ]
    model = Transformer(vocabulary, blocks)
    if scheme in ADDED:
        model.positions = ADDED[scheme](longest, d_model)
    return model
