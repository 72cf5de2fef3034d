"""From scores to weights: the stable softmax, its Jacobian and its gradient."""

from typing import Any

from jaxtyping import Float

from .arrays import describe, namespace


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
    largest = float(xp.finfo(x.dtype).max) / 4  # so that differences of huge scores stay finite
    finite = xp.clip(x, -largest, largest)
    e = xp.exp(finite - xp.max(finite, axis=axis, keepdims=True))
    e = xp.where(x == -xp.inf, xp.zeros_like(e), e)
    total = xp.sum(e, axis=axis, keepdims=True)
    return e / xp.where(total == 0, xp.ones_like(total), total)


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
        raise ValueError(
            f"expected as many weights as gradients; got {describe(weights=weights, gradient=gradient)}"
        )
    return weights * (gradient - xp.sum(weights * gradient, axis=-1, keepdims=True))
