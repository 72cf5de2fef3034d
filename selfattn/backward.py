"""The gradient of attention, by hand."""

from typing import Any, NamedTuple

from jaxtyping import Float

from .arguments import fitted
from .arrays import describe, finite, joined, namespace, undisturbed
from .attention import attention, attention_weights, cleaned, without_holes
from .scores import scaled_dot_product
from .softmax import softmax_backward


class AttentionGradients(NamedTuple):
    """What the loss's slope is with respect to each input of `attention`; each has its input's shape."""

    q: Any
    k: Any
    v: Any
    bias: Any = None


def attention_backward(
    gradient: Float[Any, "*axes q_len d_v"],
    q: Float[Any, "*q_axes q_len d_k"],
    k: Float[Any, "*kv_axes kv_len d_k"],
    v: Float[Any, "*v_axes kv_len d_v"],
    *,
    mask: Any = None,
    bias: Any = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> AttentionGradients:
    r"""From the gradient with respect to the output of `attention` to those with respect to its inputs.

    Write :math:`\bar X = \partial L / \partial X`. The output is :math:`O = AV`, that is
    :math:`O_{ic} = \sum_j A_{ij} V_{jc}`. The chain rule sums over all that an entry reaches:

    .. math:: \bar V_{jc} = \sum_i A_{ij}\, \bar O_{ic}, \qquad \bar A_{ij} = \sum_c \bar O_{ic} V_{jc}
              \qquad\text{that is}\qquad \bar V = A^\top \bar O, \quad \bar A = \bar O V^\top

    Row i of :math:`A = \operatorname{softmax}(T)` depends on row i of T alone. With the softmax's Jacobian,
    :math:`\partial A_{ij} / \partial T_{il} = A_{ij} (\delta_{jl} - A_{il})`,

    .. math:: \bar T_{il} = A_{il} \Bigl(\bar A_{il} - \sum_j \bar A_{ij} A_{ij}\Bigr)

    A forbidden pair has :math:`A_{il} = 0` and passes nothing on. The bias enters as
    :math:`T = f(S) + B`, so that :math:`\bar B = \bar T`. Without a softcap f(S) = S; with softcap c,
    :math:`f(S) = c \tanh(S / c)`, whose derivative is :math:`1 - \tanh^2(S / c)`:

    .. math:: \bar S = \bar T \circ \bigl(1 - \tanh^2(S / c)\bigr)

    Last, :math:`S = \sigma Q K^\top` with the scale σ gives, as above,

    .. math:: \bar Q = \sigma\, \bar S K, \qquad \bar K = \sigma\, \bar S^\top Q

    An input that was repeated, along a broadcast axis or for a group of heads, gets the sum over its copies.
    (The softmax's part: see `softmax_backward`; the whole without a mask: Dao et al. 2022, appendix B.2.)

    Shapes: `gradient` as the output, ``(*batch, heads, q_len, d_v)``; the rest, the options and the errors
    as in `attention`. The gradient for `bias` is None without one. Meant for float64 and float32. An output
    that a NaN or an infinity has spoilt passes nothing on.

    >>> import numpy as np
    >>> q, k, v = np.ones((1, 1)), np.zeros((2, 1)), np.array([[0.0], [4.0]])
    >>> attention_backward(np.ones((1, 1)), q, k, v).k.tolist()
    [[-1.0], [1.0]]
    """
    xp = namespace(gradient=gradient, q=q, k=k, v=v)
    options = {"mask": mask, "bias": bias, "softcap": softcap}
    with undisturbed(q):
        _, keys, values, _, scale = fitted(q, k, v, mask, bias, scale, softcap)
        batch = joined(q.shape[:-2], keys.shape[:-2], values.shape[:-2])
        if gradient.shape != (*batch, q.shape[-2], v.shape[-1]):
            seen = describe(gradient=gradient, q=q, k=k, v=v)
            raise ValueError(f"gradient must have the output's shape; got {seen}")
        if not finite(q, k, v, bias=bias):
            output = attention(q, k, v, scale=scale, **options)
            gradient = xp.where(xp.isfinite(output), gradient, 0.0)
            q, keys, values = cleaned(q), cleaned(keys), cleaned(values)
            options["bias"] = without_holes(bias)
        weights = attention_weights(q, keys, scale=scale, **options)
        biased = softmax_backward(weights, gradient @ values.mT)
        scores = biased
        if softcap is not None:
            capped = xp.tanh(scaled_dot_product(q, keys, scale) / softcap)
            scores = biased * (1 - capped**2)
        return AttentionGradients(
            q=_over_copies(scale * scores @ keys, q),
            k=_over_copies(scale * scores.mT @ q, k),
            v=_over_copies(weights.mT @ gradient, v),
            bias=None if bias is None else _over_copies(biased, bias),
        )


def _over_copies(gradient: Any, original: Any) -> Any:
    """Sum a gradient over the copies that were made of `original` along each axis."""
    shape = (1,) * (gradient.ndim - original.ndim) + tuple(original.shape)
    xp, pairs = namespace(gradient=gradient), zip(shape, gradient.shape, strict=True)
    copies = tuple(n for size, total in pairs for n in (size, total // max(size, 1)))
    summed = xp.sum(xp.reshape(gradient, copies), axis=tuple(range(1, len(copies), 2)))
    return xp.reshape(summed, original.shape)
