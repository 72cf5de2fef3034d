"""How well does a query match a key? Five published scores, and how a score becomes a logit."""

from numbers import Real
from typing import Any

from array_api_compat import array_namespace
from jaxtyping import Float

from .arrays import describe, is_array, namespace, number, traced


def dot_product(
    q: Float[Any, "*q_axes q_len d_k"],
    k: Float[Any, "*k_axes kv_len d_k"],
) -> Any:
    r"""The dot product of every query with every key.

    .. math:: s_{ij} = q_i \cdot k_j = |q_i|\,|k_j| \cos\angle(q_i, k_j)

    (Luong, Pham and Manning 2015, eq. 8, "dot".)

    Shapes: `q` ``(..., q_len, d_k)``, `k` ``(..., kv_len, d_k)``; the result ``(..., q_len, kv_len)``.

    Raises `TypeError` for mixed libraries or integers, `ValueError` when the widths differ.

    >>> import numpy as np
    >>> dot_product(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [0.0, -1.0]]))
    array([[11., -2.]])
    """
    namespace(q=q, k=k)
    if q.ndim < 2 or k.ndim < 2 or q.shape[-1] != k.shape[-1]:
        wanted = "q (..., q_len, d_k) and k (..., kv_len, d_k)"
        raise ValueError(f"expected {wanted}; got {describe(q=q, k=k)}")
    return q @ k.mT


def scaled_dot_product(
    q: Float[Any, "*q_axes q_len d_k"],
    k: Float[Any, "*k_axes kv_len d_k"],
    scale: float | None = None,
) -> Any:
    r"""The dot product times `scale`, by default :math:`1/\sqrt{d_k}`.

    .. math:: s_{ij} = \frac{q_i \cdot k_j}{\sqrt{d_k}}

    (Vaswani et al. 2017, eq. 1.) The queries are scaled before the product, so that float16
    overflows later. Shapes and errors: see `dot_product`.

    >>> import numpy as np
    >>> scaled_dot_product(np.ones((1, 4)), np.ones((2, 4)))
    array([[2., 2.]])
    """
    namespace(q=q, k=k)
    scale = default_scale(q) if scale is None else number("scale", scale)
    return dot_product(scale * q, k)


def default_scale(q: Any) -> float:
    r"""The factor :math:`1/\sqrt{d_k}` of queries ``(..., q_len, d_k)``.

    >>> import numpy as np
    >>> default_scale(np.ones((3, 4)))
    0.5
    """
    return max(q.shape[-1], 1) ** -0.5


def logits(
    q: Any,
    k: Any,
    scale: float,
    softcap: float | None,
    bias: Any,
    mask: Any,
) -> Any:
    r"""What the softmax is taken of: scaled scores, capped, biased, and -∞ where attention is forbidden.

    .. math:: \ell_{ij} = \begin{cases}
              c \tanh(s_{ij} / c) + b_{ij} & \text{where allowed} \\
              -\infty & \text{where } m_{ij} \text{ is false or } b_{ij} = -\infty \end{cases}

    (Vaswani et al. 2017, section 3.2.3, for the mask; Gemma Team 2024 for the softcap c.) The arguments are
    known to fit: `mask` is a boolean array, True where the query may attend, or None, and like `bias` it
    broadcasts to the scores. Half precisions are widened to float32, and so is the result.

    >>> import numpy as np
    >>> allowed = np.array([True, False])
    >>> logits(np.ones((1, 4)), np.ones((2, 4)), 0.5, None, None, mask=allowed)
    array([[  2., -inf]])
    """
    xp = array_namespace(q, k)
    if xp.finfo(q.dtype).bits < 32:
        q, k = xp.astype(q, xp.float32), xp.astype(k, xp.float32)
    scores = (scale * q) @ k.mT
    if softcap is not None:
        scores = softcap * xp.tanh(scores / softcap)
    if bias is not None:
        scores = xp.where(bias == -xp.inf, -xp.inf, scores + bias)  # ∞ - ∞ is NaN
    if mask is not None:
        scores = xp.where(mask, scores, -xp.inf)
    return scores


def cosine(
    q: Float[Any, "*q_axes q_len d_k"],
    k: Float[Any, "*k_axes kv_len d_k"],
    temperature: Any = 1.0,
) -> Any:
    r"""The cosine of the angle between every query and every key, over a temperature.

    .. math:: s_{ij} = \frac{1}{\tau}\,\frac{q_i \cdot k_j}{|q_i|\,|k_j|}

    (Graves, Wayne and Danihelka 2014, eq. 6, with :math:`\beta = 1/\tau`.) A vector of length zero
    has cosine zero with everything. `temperature` is a positive number, or an array of
    such that broadcasts; `TypeError` and `ValueError` say what else it was. Shapes and other
    errors: see `dot_product`.

    >>> import numpy as np
    >>> cosine(np.array([[3.0, 0.0]]), np.array([[1.0, 1.0], [0.0, 5.0]])).round(3)
    array([[0.707, 0.   ]])
    """
    xp = namespace(q=q, k=k)
    if isinstance(temperature, Real):
        number("temperature", temperature, positive=True)
    elif not is_array(temperature, xp, ("integral", "real floating")):
        wanted = "a number, or an array of q's library"
        raise TypeError(f"temperature is {wanted}; got {temperature!r}")
    elif not traced(temperature) and not xp.all(temperature > 0):
        raise ValueError(f"temperatures are positive; got {temperature}")

    def direction(x: Any) -> Any:
        largest = xp.max(xp.abs(x), axis=-1, keepdims=True)  # x squared might overflow
        x = x / xp.where(largest == 0, xp.ones_like(largest), largest)
        square = xp.sum(x * x, axis=-1, keepdims=True)
        square = xp.where(square == 0, xp.ones_like(square), square)  # √0 has no slope
        return x / xp.sqrt(square)

    return dot_product(direction(q), direction(k)) / temperature


def bilinear(
    q: Float[Any, "*q_axes q_len d_q"], k: Float[Any, "*k_axes kv_len d_k"], w: Float[Any, "d_q d_k"]
) -> Any:
    r"""A learned dot product: `w` says which query feature looks for which key feature.

    .. math:: s_{ij} = q_i^\top W k_j

    (Luong, Pham and Manning 2015, eq. 8, "general".) With :math:`W = W_Q W_K^\top` it is the dot
    product of projected queries and keys.

    Shapes: `q` ``(..., q_len, d_q)``, `k` ``(..., kv_len, d_k)``, `w` ``(d_q, d_k)``; the result
    ``(..., q_len, kv_len)``.

    Raises `TypeError` for mixed libraries or integers, `ValueError` when a width differs.

    >>> import numpy as np
    >>> bilinear(np.array([[1.0, 0.0]]), np.array([[5.0, 7.0]]), np.array([[0.0, 1.0], [1.0, 0.0]]))
    array([[7.]])
    """
    namespace(q=q, k=k, w=w)
    if w.ndim != 2 or q.shape[-1] != w.shape[0] or k.shape[-1] != w.shape[1]:
        raise ValueError(f"expected w (d_q, d_k); got {describe(q=q, k=k, w=w)}")
    return dot_product(q @ w, k)


def additive(
    q: Float[Any, "*q_axes q_len d_q"],
    k: Float[Any, "*k_axes kv_len d_k"],
    w_q: Float[Any, "d_q d_hidden"],
    w_k: Float[Any, "d_k d_hidden"],
    v: Float[Any, " d_hidden"],
) -> Any:
    r"""A small network with one hidden layer scores each pair.

    .. math:: s_{ij} = v^\top \tanh(W_Q^\top q_i + W_K^\top k_j)

    (Bahdanau, Cho and Bengio 2015, appendix A.1.2.)

    Shapes: `q` ``(..., q_len, d_q)``, `k` ``(..., kv_len, d_k)``, `w_q` ``(d_q, d_hidden)``,
    `w_k` ``(d_k, d_hidden)``, `v` ``(d_hidden,)``; the result ``(..., q_len, kv_len)``, at a cost of
    ``q_len * kv_len * d_hidden`` numbers held at once.

    Raises `TypeError` for mixed libraries or integers, `ValueError` when a width differs.

    >>> import numpy as np
    >>> one = np.ones((1, 1))
    >>> additive(one, -one, one, one, np.ones(1))
    array([[0.]])
    """
    xp = namespace(q=q, k=k, w_q=w_q, w_k=w_k, v=v)
    if (
        (q.ndim < 2 or k.ndim < 2 or v.ndim != 1)
        or (q.shape[-1], k.shape[-1]) != (w_q.shape[0], w_k.shape[0])
        or not w_q.shape[1:] == w_k.shape[1:] == v.shape
    ):
        raise ValueError(
            "expected q (..., q_len, d_q), k (..., kv_len, d_k), w_q (d_q, d_hidden), w_k (d_k, d_hidden), "
            f"v (d_hidden,); got {describe(q=q, k=k, w_q=w_q, w_k=w_k, v=v)}"
        )
    hidden = xp.tanh((q @ w_q)[..., :, None, :] + (k @ w_k)[..., None, :, :])
    return xp.sum(hidden * v, axis=-1)
