"""From scores to weights: the softmax, its Jacobian, its gradient, and its keys taken in parts."""

from typing import Any, NamedTuple

from array_api_compat import array_namespace, device, is_numpy_array
from jaxtyping import Float

from .arrays import describe, namespace, traced, undisturbed


def softmax(x: Float[Any, "*shape"], axis: int = -1) -> Float[Any, "*shape"]:
    r"""Turn scores along `axis` into weights that are positive and sum to one.

    .. math:: \operatorname{softmax}(x)_j = \frac{e^{x_j - m}}{\sum_l e^{x_l - m}}, \qquad m = \max_l x_l

    Subtracting the maximum changes nothing, since the factor :math:`e^{-m}` cancels, and keeps the
    exponentials in range (Goodfellow, Bengio and Courville 2016, section 4.1). A score of ``-inf`` is
    *forbidden* and gets weight zero; where every score is forbidden, all weights are zero, never NaN.

    Shapes: `x` any; the result has the shape and type of `x`. Half precisions are summed in float32.

    Raises `TypeError` when `x` is no real floating-point array.

    >>> import numpy as np
    >>> softmax(np.log([1.0, 2.0, 5.0])).round(3)
    array([0.125, 0.25 , 0.625])
    >>> softmax(np.array([-np.inf, -np.inf]))
    array([0., 0.])
    """
    xp = namespace(x=x)
    if 0 in x.shape:
        return x  # nothing to weigh; the maximum of nothing is an error
    if xp.finfo(x.dtype).bits < 32:
        return xp.astype(softmax(xp.astype(x, xp.float32), axis), x.dtype)
    x = xp.clip(x, max=float(xp.finfo(x.dtype).max))  # ∞ - ∞ is NaN
    maximum = xp.max(x, axis=axis, keepdims=True)
    with undisturbed(x):
        e = xp.exp(x - xp.where(maximum == -xp.inf, 0.0, maximum))
    total = xp.sum(e, axis=axis, keepdims=True)
    return e / xp.where(total == 0, 1.0, total)


def softmax_jacobian(weights: Float[Any, "*shape n"]) -> Float[Any, "*shape n n"]:
    r"""How each softmax weight moves with each score, given the weights themselves.

    .. math:: \frac{\partial a_i}{\partial x_j} = a_i\,(\delta_{ij} - a_j)
              \qquad\text{that is}\qquad \operatorname{diag}(a) - a a^\top

    (Bridle 1990). The Jacobian is small wherever the weights are nearly one-hot.

    Shapes: `weights` ``(..., n)``, as `softmax` returns them; the result ``(..., n, n)``.

    Raises `TypeError` when `weights` is no real floating-point array.

    >>> import numpy as np
    >>> softmax_jacobian(np.array([0.5, 0.5]))
    array([[ 0.25, -0.25],
           [-0.25,  0.25]])
    """
    xp = namespace(weights=weights)
    identity = xp.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device)
    return weights[..., :, None] * (identity - weights[..., None, :])


def softmax_backward(
    weights: Float[Any, "*weights_axes n"], gradient: Float[Any, "*gradient_axes n"]
) -> Float[Any, "*axes n"]:
    r"""The gradient with respect to the scores, from that with respect to the softmax weights.

    .. math:: \frac{\partial L}{\partial x_j} = \sum_i \frac{\partial L}{\partial a_i}\,
              \frac{\partial a_i}{\partial x_j} = a_j\,\Bigl(g_j - \sum_i a_i\,g_i\Bigr),
              \qquad g_i = \frac{\partial L}{\partial a_i}

    This is the product with `softmax_jacobian`, without the n × n matrix (Dao et al. 2022, appendix B.2).
    Where everything is forbidden, all weights are zero, and so is the gradient.

    Shapes: `weights` and `gradient` ``(..., n)``; the result has the shape to which they broadcast.

    Raises `TypeError` for mixed libraries or integers, `ValueError` when the lengths differ.

    >>> import numpy as np
    >>> softmax_backward(np.array([0.5, 0.5]), np.array([1.0, 0.0]))
    array([ 0.25, -0.25])
    """
    xp = namespace(weights=weights, gradient=gradient)
    if weights.shape[-1:] != gradient.shape[-1:]:
        seen = describe(weights=weights, gradient=gradient)
        raise ValueError(f"expected as many weights as gradients; got {seen}")
    return weights * (gradient - xp.sum(weights * gradient, axis=-1, keepdims=True))


class Partial(NamedTuple):
    r"""What a query has to remember of the keys that it has seen, to average over more of them later.

    .. math:: m = \max_j s_j, \qquad t = \sum_j e^{s_j - m}, \qquad w = \sum_j e^{s_j - m}\, v_j

    Any other m gives the same average; the maximum keeps the exponentials in range.

    Shapes: `maximum` and `total` ``(..., q_len, 1)``, `weighted` ``(..., q_len, d_v)``. `merge` joins what is
    known of two sets of keys, in any order and grouping; before any key it is ``-inf, 0, 0``.
    """

    maximum: Any
    total: Any
    weighted: Any


def summarize(
    scores: Float[Any, "*axes q_len kv_len"], v: Float[Any, "*v_axes kv_len d_v"], small: bool = False
) -> Partial:
    """The `Partial` of some keys, from each query's scores for them and their values.

    A score of ``-inf`` is forbidden. A NumPy array of scores is overwritten. Where the caller knows that all
    scores are `small`, their exponentials are in range as they are: m is 0, and two passes are saved.

    Raises `TypeError` for mixed libraries or integers.

    >>> import numpy as np
    >>> summarize(np.array([[0.0, 1.0]]), np.array([[3.0], [5.0]])).maximum
    array([[1.]])
    """
    xp = namespace(scores=scores, v=v)
    if scores.shape[-1] == 0:
        empty = xp.zeros_like(scores @ v)
        return Partial(empty[..., :1] - xp.inf, empty[..., :1], empty)
    in_place = {"out": scores} if is_numpy_array(scores) else {}  # new memory costs as much as the arithmetic
    if small:
        maximum = xp.zeros_like(scores[..., :1])
    else:
        largest = float(xp.finfo(scores.dtype).max)
        maximum = xp.max(scores, axis=-1, keepdims=True)
        if traced(scores) or xp.any(maximum > largest):  # as in softmax; a pass over all, where it is needed
            scores, maximum = xp.clip(scores, max=largest), xp.clip(maximum, max=largest)
        with undisturbed(scores):
            scores = xp.subtract(scores, xp.where(maximum == -xp.inf, 0.0, maximum), **in_place)
    with undisturbed(scores):
        e = xp.exp(scores, **in_place)
    ones = xp.ones((v.shape[-2], 1), dtype=e.dtype, device=device(e))
    return Partial(maximum, e @ ones, e @ v)  # a product sums on all cores


def merge(a: Partial, b: Partial) -> Partial:
    r"""The `Partial` of all keys of `a` and `b`: the one with the smaller maximum shrinks to the other's.

    .. math:: m = \max(m_a, m_b), \qquad t = e^{m_a - m}\, t_a + e^{m_b - m}\, t_b

    and the same for w (Milakov and Gimelshein 2018, section 3.1).

    >>> import numpy as np
    >>> one, other = (summarize(np.array([[s]]), np.array([[v]])) for s, v in [(0.0, 3.0), (np.log(3), 7.0)])
    >>> average(merge(one, other)).round(3)
    array([[6.]])
    """
    xp = array_namespace(a.maximum, b.maximum)
    maximum = xp.maximum(a.maximum, b.maximum)
    finite = xp.where(maximum == -xp.inf, 0.0, maximum)
    with undisturbed(maximum):
        shrink_a, shrink_b = xp.exp(a.maximum - finite), xp.exp(b.maximum - finite)
    return Partial(
        maximum,
        shrink_a * a.total + shrink_b * b.total,
        shrink_a * a.weighted + shrink_b * b.weighted,
    )


def average(partial: Partial) -> Any:
    """The softmax-weighted average of the values, ``(..., q_len, d_v)``; zeros where no key was allowed.

    >>> import numpy as np
    >>> average(summarize(np.array([[0.0, 0.0, -np.inf]]), np.array([[3.0], [5.0], [7.0]])))
    array([[4.]])
    """
    xp = array_namespace(partial.total)
    return partial.weighted / xp.where(partial.total == 0, xp.ones_like(partial.total), partial.total)
