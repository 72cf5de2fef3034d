"""Exact attention in linear memory: check the arguments, plan tiles of queries and keys, compute them.

`plan` says which keys a few queries see; `blocks` computes a tile in this library's own words, `torch` in one
call of torch's kernel.
"""

from functools import partial
from typing import Any

from array_api_compat import array_namespace, is_torch_array
from jaxtyping import Float

from ..arguments import fitted
from ..arrays import finite, joined, traced, undisturbed
from ..attention import attention, showing
from ..mask import Mask
from . import blocks, torch
from .plan import plan_tiles


def flash_attention(
    q: Float[Any, "*q_axes q_len d_k"],
    k: Float[Any, "*kv_axes kv_len d_k"],
    v: Float[Any, "*v_axes kv_len d_v"],
    *,
    mask: Any = None,
    bias: Any = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> Float[Any, "*axes q_len d_v"]:
    r"""What `attention` returns, without ever holding ``q_len * kv_len`` numbers.

    A tile of queries meets its keys in parts, and the softmax is put together from what they leave
    (Rabe and Staats 2021; Dao et al. 2022, algorithm 1):

    .. math:: O = \frac{\sum_p e^{m_p - m}\, w_p}{\sum_p e^{m_p - m}\, t_p}, \qquad m = \max_p m_p

    with each part's largest score m, total t and weighted values w, a `selfattn.softmax.Partial`; m is 0
    where the lengths of queries and keys say that no score is far from it. Keys outside the intervals of the
    queries (`Mask.interval`) are never touched.

    Tensors go to torch's own kernel, a call for each tile, where there is no softcap and the numbers are
    finite and their products in range. The backward pass computes every tile again, since no weights were
    kept; derivatives of a higher order are those of `attention`, in its memory. Where torch records or
    transforms the computation, as in `torch.compile` and vmap, and for dual numbers, this is `attention`.

    Shapes, options, types and errors: see `attention` and `attention_weights`.

    >>> import numpy as np
    >>> from selfattn.masks import sliding_window
    >>> x = np.ones((100_000, 1))
    >>> flash_attention(x, x, x, mask=sliding_window(2)).shape  # the scores alone would fill 80 GB
    (100000, 1)
    """
    rule = is_torch_array(q) and isinstance(mask, Mask)
    if traced(q, k, v, mask, bias) or (rule and mask.traced):
        return attention(q, k, v, mask=mask, bias=bias, scale=scale, softcap=softcap)
    with undisturbed(q):
        q, k, v, bias, scale = fitted(q, k, v, mask, bias, scale, softcap)
        xp, axes = array_namespace(q), joined(q.shape[:-2], k.shape[:-2], v.shape[:-2])
        q = xp.broadcast_to(q, (*axes, *q.shape[-2:]))
        k = xp.broadcast_to(k, (*axes, *k.shape[-2:]))
        v = xp.broadcast_to(v, (*axes, *v.shape[-2:]))
        plain = finite(q, k, v, bias=bias)
        kernel = torch if is_torch_array(q) and plain and softcap is None else blocks  # the one place
        if scale <= 0 or (bias is not None and bias.dtype != q.dtype):
            kernel = blocks  # torch's forbids before it scales, and adds a bias of the queries' type

        shapes = kernel is torch and bias is None
        tiles = plan_tiles(mask, axes, q.shape[-2], k.shape[-2], like=q, shapes=shapes)

        if kernel is torch:
            attend = partial(torch.attend, scale=scale)
        else:
            small = plain and bias is None and blocks.small_scores(q, k, v, scale)
            attend = partial(blocks.attend, scale=scale, softcap=softcap, small=small)

        average = partial(blocks.put_together, attend, tiles)
        if is_torch_array(q):
            formula = partial(attention, mask=mask, scale=scale, softcap=softcap)
            average = partial(torch.put_together, attend, formula, tiles)
        return average(q, k, v, bias=bias) if plain else showing(average, q, k, v, bias)
