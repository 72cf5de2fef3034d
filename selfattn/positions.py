"""Where a token stands: sinusoids to add, rotations to apply, biases and buckets for distances."""

import math
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device
from jaxtyping import Float, Int

from .arrays import broadcasts, describe, integer, is_array, namespace, number


def sinusoidal(n: int, d: int, *, like: Any = None) -> Float[Any, "{n} {d}"]:
    r"""A sine and a cosine of the position at each of d/2 frequencies, to be added to the embeddings.

    .. math:: P_{p,\,2i} = \sin(p / 10000^{2i/d}), \qquad P_{p,\,2i+1} = \cos(p / 10000^{2i/d})

    (Vaswani et al. 2017, section 3.5.) The library, type and device are those of `like`, or else NumPy's
    float64. Raises `TypeError` when n or d is no integer, `ValueError` when n is negative, or d odd or not
    positive.

    >>> sinusoidal(2, 4).round(2)
    array([[0.  , 1.  , 0.  , 1.  ],
           [0.84, 0.54, 0.01, 1.  ]])
    """
    n, d = integer("n", n), integer("d", d)
    if n < 0 or d < 2 or d % 2:
        raise ValueError(f"expected n >= 0 and an even, positive d; got n={n}, d={d}")
    like = np.empty(0) if like is None else like
    xp = namespace(like=like)
    angles = _angles(xp.arange(n, device=device(like)), d, 10000.0)
    pairs = xp.stack([xp.sin(angles), xp.cos(angles)], axis=-1)
    return xp.astype(xp.reshape(pairs, (n, d)), like.dtype)


def rotary(
    x: Float[Any, "*batch n d"],
    positions: Any,
    *,
    base: float = 10000.0,
    interleaved: bool = False,
    rotary_dim: int | None = None,
) -> Float[Any, "*batch n d"]:
    r"""Turn pairs of features by angles that grow with the position.

    .. math:: (x_a, x_b) \mapsto
              (x_a \cos p\theta_i - x_b \sin p\theta_i,\; x_a \sin p\theta_i + x_b \cos p\theta_i),
              \qquad \theta_i = \mathrm{base}^{-2i/r}

    (Su et al. 2024, section 3.2.2.) The dot product of two turned vectors depends on their positions only
    through the difference. Pair i holds the features i and i + r/2 (GPT-NeoX, Hugging Face's LLaMA), or 2i
    and 2i + 1 when `interleaved` (the paper, GPT-J, Meta's LLaMA). r is `rotary_dim`, by default the width;
    features from r on stay.

    Shapes: `x` ``(..., n, d)``, and so the result; `positions` ``(n,)``, or whatever broadcasts to
    ``(..., n)``: an array of integers or real numbers, negative ones too. Angles are taken in float64,
    since float32 is too coarse at far positions; half precisions are turned in float32. Raises `TypeError`
    for integers in `x` or mixed libraries, `ValueError` when r is odd or too wide, the positions don't fit or
    the base isn't positive.

    >>> rotary(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1])).round(2)
    array([[1.  , 0.  ],
           [0.54, 0.84]])
    """
    xp = namespace(x=x)
    rotary_dim = x.shape[-1] if rotary_dim is None else integer("rotary_dim", rotary_dim)
    if rotary_dim % 2 or not 0 < rotary_dim <= x.shape[-1]:
        seen = f"rotary_dim={rotary_dim}, {describe(x=x)}"
        raise ValueError(f"an even number of x's features can turn; got {seen}")
    if not is_array(positions, xp, ("integral", "real floating")):
        seen = describe(x=x, positions=positions)
        raise TypeError(f"positions are numbers in an array of x's library; got {seen}")
    if not broadcasts(positions.shape, x.shape[:-1]):
        seen = describe(x=x, positions=positions)
        raise ValueError(f"positions must broadcast to the (..., n) of x; got {seen}")
    wide = xp.float32 if xp.finfo(x.dtype).bits < 32 else x.dtype
    angles = _angles(positions, rotary_dim, number("base", base, positive=True))
    cos, sin = xp.astype(xp.cos(angles), wide), xp.astype(xp.sin(angles), wide)
    first, second = slice(rotary_dim // 2), slice(rotary_dim // 2, rotary_dim)
    if interleaved:
        first, second = slice(0, rotary_dim, 2), slice(1, rotary_dim, 2)
    a, b = xp.astype(x[..., first], wide), xp.astype(x[..., second], wide)
    join = xp.stack if interleaved else xp.concat
    turned = xp.astype(join([a * cos - b * sin, a * sin + b * cos], axis=-1), x.dtype)
    turned = xp.reshape(turned, (*x.shape[:-1], rotary_dim))
    return xp.concat([turned, x[..., rotary_dim:]], axis=-1)


def alibi(
    num_heads: int,
    q_len: int,
    kv_len: int,
    *,
    like: Any = None,
) -> Float[Any, "h {q_len} {kv_len}"]:
    r"""A bias that lowers each score in proportion to the distance, at a slope of its own in each head.

    .. math:: B_{hij} = -m_h\,|i - j|, \qquad m_h = 2^{-8h/H}, \quad h = 1, \dots, H

    (Press, Smith and Lewis 2022, section 3.) When H is no power of two, the slopes are those for the next
    lower power, then every other one of those for twice that power (the authors' code). The paper has only
    causal attention; distances that count both ways are the same under a causal mask.

    The queries are the last of the positions, as with a key-value cache; the causal mask that goes with
    them is ``causal.shift(kv_len - q_len)``. The library, type and device are those of `like`, or else
    NumPy's float64. Raises `TypeError` for counts that are no integers, `ValueError` for no head, or for more
    queries than keys.

    >>> alibi(2, 2, 3)[0]
    array([[-0.0625,  0.    , -0.0625],
           [-0.125 , -0.0625,  0.    ]])
    """
    num_heads = integer("num_heads", num_heads)
    if num_heads < 1:
        raise ValueError(f"expected one head or more; got num_heads={num_heads}")
    like = np.empty(0) if like is None else like
    xp = namespace(like=like)
    power = 2 ** (num_heads.bit_length() - 1)
    exponents = [-8 * h / power for h in range(1, power + 1)]
    exponents += [-4 * h / power for h in range(1, 2 * (num_heads - power), 2)]
    slopes = 2.0 ** xp.asarray(exponents, dtype=xp.float64, device=device(like))
    nearness = xp.astype(-xp.abs(_offsets(q_len, kv_len, like)), xp.float64)
    return xp.astype(slopes[:, None, None] * nearness, like.dtype)


def relative_buckets(
    q_len: int,
    kv_len: int,
    *,
    num_buckets: int = 32,
    max_distance: int = 128,
    bidirectional: bool = True,
    like: Any = None,
) -> Int[Any, "{q_len} {kv_len}"]:
    r"""Which entry of a learned table of biases serves each pair: near distances alone, far ones shared.

    .. math:: b(\delta) = \delta \;\text{ for } \delta < e, \;\text{ else }\;
              \min\Bigl(n - 1,\; e + \Bigl\lfloor (n - e) \frac{\ln(\delta/e)}{\ln(D/e)} \Bigr\rfloor\Bigr),
              \qquad e = \lfloor n/2 \rfloor

    (Raffel et al. 2020, section 2.1, and the authors' code.) D is `max_distance`. When `bidirectional`, n
    is half of `num_buckets`, :math:`\delta = |i - j|`, and later keys use the second half; otherwise n is
    `num_buckets` and :math:`\delta = \max(i - j, 0)`. With a table ``(num_buckets, heads)`` the bias is
    ``table[buckets]``, its last axis moved to the front. The queries are the last positions, as in `alibi`.

    The library and device are those of `like`, or else NumPy's. Raises `TypeError` for counts that are no
    integers, `ValueError` for more queries than keys, or when `max_distance` and `num_buckets` don't fit.

    >>> relative_buckets(2, 4, num_buckets=8, max_distance=4)
    array([[2, 1, 0, 5],
           [3, 2, 1, 0]])
    """
    num_buckets = integer("num_buckets", num_buckets)
    n = num_buckets // 2 if bidirectional else num_buckets
    exact = n // 2
    if not 0 < exact < number("max_distance", max_distance):
        seen = f"{exact} exact ones, {num_buckets=}, {max_distance=}, {bidirectional=}"
        raise ValueError(f"expected 0 < exact buckets < max_distance; got {seen}")
    like = np.empty(0) if like is None else like
    xp = array_namespace(like)
    offsets = _offsets(q_len, kv_len, like)
    distances = xp.abs(offsets) if bidirectional else xp.clip(-offsets, 0)
    ratios = xp.clip(xp.astype(distances, xp.float64), exact) / exact
    far = (n - exact) * xp.log(ratios) / math.log(max_distance / exact)
    far = xp.astype(far + 1e-12, xp.int64)  # on a border, not rounded below it
    buckets = xp.where(distances < exact, distances, xp.clip(exact + far, max=n - 1))
    return xp.where(offsets > 0, buckets + n, buckets) if bidirectional else buckets


def _angles(positions: Any, width: int, base: float) -> Any:
    """One angle for each position and pair, in float64."""
    xp = array_namespace(positions)
    doubled = xp.arange(0, width, 2, dtype=xp.float64, device=device(positions))
    return xp.astype(positions, xp.float64)[..., None] * base ** (-doubled / width)


def _offsets(q_len: int, kv_len: int, like: Any) -> Any:
    """Key position minus query position, ``(q_len, kv_len)``."""
    q_len, kv_len = integer("q_len", q_len), integer("kv_len", kv_len)
    if not 0 <= q_len <= kv_len:
        raise ValueError(f"queries are the last of the keys' positions; got q_len={q_len}, kv_len={kv_len}")
    j = array_namespace(like).arange(kv_len, device=device(like))
    return j[None, :] - j[kv_len - q_len :, None]
