"""Linear attention: products of features instead of the softmax, and a past that fits into a fixed state."""

from collections.abc import Callable
from typing import Any, NamedTuple

from array_api_compat import device
from jaxtyping import Float

from .arguments import fitted
from .arrays import describe, finite, namespace, undisturbed
from .attention import showing

CHUNK = 64
"""How many tokens of a causal sequence are compared with each other at once."""


class LinearState(NamedTuple):
    r"""All that causal linear attention remembers of the tokens so far.

    `s` is :math:`\sum_j \phi(k_j) v_j^\top` ``(..., heads, d_features, d_v)`` and `z` is
    :math:`\sum_j \phi(k_j)` ``(..., heads, d_features, 1)``.
    """

    s: Any
    z: Any


def elu_plus_one(x: Float[Any, "*shape"]) -> Float[Any, "*shape"]:
    r"""Positive features: :math:`x + 1` above zero, :math:`e^x` below (Katharopoulos et al. 2020, eq. 7).

    >>> import numpy as np
    >>> elu_plus_one(np.array([-1.0, 0.0, 2.0])).round(2)
    array([0.37, 1.  , 3.  ])
    """
    xp = namespace(x=x)
    return xp.where(
        x > 0, x + 1, xp.exp(xp.clip(x, max=0.0))
    )  # both branches are computed: none may overflow


def linear_attention(
    q: Float[Any, "*q_axes q_len d_k"],
    k: Float[Any, "*kv_axes kv_len d_k"],
    v: Float[Any, "*v_axes kv_len d_v"],
    *,
    causal: bool = False,
    feature_map: Callable[[Any], Any] = elu_plus_one,
) -> Float[Any, "*axes q_len d_v"]:
    r"""Each query's average of the values, weighted by products of features.

    .. math:: y_i = \frac{\phi(q_i)^\top \sum_j \phi(k_j)\, v_j^\top}{\phi(q_i)^\top \sum_j \phi(k_j)}

    (Katharopoulos et al. 2020, sections 3.2 and 3.3.) The sums go over all keys, or over j ≤ i when `causal`.
    Time grows with the length n, not with n². The causal form holds `CHUNK` × `CHUNK` products at a time.

    Shapes and grouped heads: as in `attention`; when `causal`, q_len = kv_len. `feature_map` takes and
    gives ``(..., n, width)``. A query whose denominator is zero gets zeros. Half precisions are computed
    in float32, the features too.

    Raises `TypeError` for mixed libraries or integers, `ValueError` for shapes that don't fit.

    >>> import numpy as np
    >>> x = np.zeros((3, 2))
    >>> linear_attention(x, x, np.array([[1.0], [3.0], [8.0]]), causal=True).tolist()
    [[1.0], [2.0], [4.0]]
    """
    xp = namespace(q=q, k=k, v=v)
    with undisturbed(q):
        features_q, features_k, values, dtype = _features(q, k, v, feature_map, causal)
        if not causal:
            s, z = _sums(features_k, values)
            return xp.astype(_ratio(features_q @ s, features_q @ z), dtype)
        n, state, outputs = q.shape[-2], None, []
        for start in range(0, max(n, 1), CHUNK):
            now = (..., slice(start, min(start + CHUNK, n)), slice(None))
            state, output = _advance(state, features_q[now], features_k[now], values[now])
            outputs.append(output)
        return xp.astype(xp.concat(outputs, axis=-2), dtype)


def linear_attention_step(
    state: LinearState | None,
    q: Float[Any, "*q_axes n d_k"],
    k: Float[Any, "*kv_axes n d_k"],
    v: Float[Any, "*v_axes n d_v"],
    *,
    feature_map: Callable[[Any], Any] = elu_plus_one,
) -> tuple[LinearState, Float[Any, "*axes n d_v"]]:
    r"""Causal linear attention as a recurrent network: one or more new tokens, given the state of the past.

    .. math:: S_i = S_{i-1} + \phi(k_i)\, v_i^\top, \qquad z_i = z_{i-1} + \phi(k_i), \qquad
              y_i = \frac{\phi(q_i)^\top S_i}{\phi(q_i)^\top z_i}

    (Katharopoulos et al. 2020, section 3.4.) Start with the state None. Returns the new state and the
    outputs ``(..., n, d_v)``; the state of half precisions is kept in float32. Shapes, options and errors:
    see `linear_attention`.

    >>> import numpy as np
    >>> x = np.zeros((1, 2))
    >>> state, first = linear_attention_step(None, x, x, np.array([[1.0]]))
    >>> state, second = linear_attention_step(state, x, x, np.array([[3.0]]))
    >>> first.tolist(), second.tolist()
    ([[1.0]], [[2.0]])
    """
    xp = namespace(q=q, k=k, v=v)
    with undisturbed(q):
        *features, dtype = _features(q, k, v, feature_map, causal=True)
        state, output = _advance(state, *features)
        return state, xp.astype(output, dtype)


def _features(
    q: Any, k: Any, v: Any, feature_map: Callable[[Any], Any], causal: bool
) -> tuple[Any, Any, Any, Any]:
    """Features of queries and of keys, and values, in float32 at least, and the type of the result."""
    q, k, v, *_ = fitted(q, k, v)
    if causal and q.shape[-2] != k.shape[-2]:
        raise ValueError(f"causal queries and keys need equal lengths; got {describe(q=q, k=k)}")
    xp, dtype = namespace(q=q), q.dtype
    if xp.finfo(dtype).bits < 32:
        q, k, v = (xp.astype(x, xp.float32) for x in (q, k, v))
    return feature_map(q), feature_map(k), v, dtype


def _sums(features_k: Any, values: Any) -> LinearState:
    xp = namespace(k=features_k)
    return LinearState(features_k.mT @ values, xp.sum(features_k, axis=-2)[..., None])


def _ratio(top: Any, bottom: Any) -> Any:
    """A quotient that is zero, and has no slope, where the denominator is zero."""
    xp = namespace(top=top)
    return xp.where(bottom == 0, 0.0, top / xp.where(bottom == 0, 1.0, bottom))


def _advance(state: LinearState | None, q: Any, k: Any, v: Any) -> tuple[LinearState, Any]:
    """Features of some tokens attend to the state and to those among them that aren't later."""
    xp, sums = namespace(q=q), _sums(k, v)
    if state is not None:
        sums = LinearState(state.s + sums.s, state.z + sums.z)

    def average(q: Any, k: Any, v: Any) -> Any:
        weights = xp.tril(q @ k.mT)
        top, bottom = weights @ v, xp.sum(weights, axis=-1, keepdims=True)
        if state is not None:
            top, bottom = top + q @ state.s, bottom + q @ state.z
        return _ratio(top, bottom)

    def seeing(q: Any, k: Any, v: Any) -> Any:
        n = v.shape[-2]
        return xp.tril(xp.ones((n, n), dtype=v.dtype, device=device(v))) @ v

    return sums, average(q, k, v) if finite(q, k, v) else showing(average, q, k, v, seeing=seeing)
