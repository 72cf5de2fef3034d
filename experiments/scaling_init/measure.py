"""What does 1/√d_k do before any training?

The weights over random keys, and over those of a trained model.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.special import entr

import selfattn as sa
from selfattn import pretrained

FACTORS = {
    "1": lambda d_k: 1.0,
    "1/√d_k": lambda d_k: d_k**-0.5,
    "1/d_k": lambda d_k: 1 / d_k,
}


def gaussian(d_k: int, seed: int, *, batch: int, n: int, d_model: int) -> Any:
    """Queries and keys ``(batch, n, d_k)`` of a freshly initialized layer."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, n, d_model))
    x = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    w_q, w_k = rng.standard_normal((2, d_model, d_k)) / np.sqrt(d_model)
    return x @ w_q, x @ w_k


def smoothness(q: Any, k: Any, scale: float) -> dict[str, float]:
    """Entropy / log n, largest weight and Jacobian norm, averaged over all queries."""
    weights = sa.attention_weights(q, k, scale=scale)
    entropy = entr(weights).sum(-1)
    jacobian = np.linalg.norm(sa.softmax_jacobian(weights), axis=(-2, -1))
    return {
        "entropy": float(entropy.mean() / np.log(weights.shape[-1])),
        "largest weight": float(weights.max(-1).mean()),
        "Jacobian norm": float(jacobian.mean()),
    }


def by_factor(q: Any, k: Any) -> Iterator[dict[str, Any]]:
    """One row a factor: the dot products' variance / d_k, the weights' smoothness."""
    d_k = q.shape[-1]
    variance = float(np.var(sa.dot_product(q, k)) / d_k)
    for name, factor in FACTORS.items():
        row = {"variance / d_k": variance, "factor": name}
        yield row | smoothness(q, k, factor(d_k))


def untrained(d_k: int, seeds: list[int], **size: int) -> list[dict[str, Any]]:
    """Random queries and keys: one row a seed and factor."""
    pairs = ((seed, gaussian(d_k, seed, **size)) for seed in seeds)
    return [{"seed": seed} | row for seed, pair in pairs for row in by_factor(*pair)]


def trained(sentence: str) -> list[dict[str, Any]]:
    """MiniLM's own queries and keys for a sentence: one row a layer and factor."""
    q, k = pretrained.load("minilm-l6").queries_keys(sentence)
    return [
        {"layer": layer} | row
        for layer, pair in enumerate(zip(q, k, strict=True))
        for row in by_factor(*pair)
    ]
