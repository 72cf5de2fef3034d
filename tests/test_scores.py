import math
import re
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_array_equal

import selfattn as sa
from selfattn.arrays import describe

assert_allclose = partial(np.testing.assert_allclose, rtol=0)  # its own default, 1e-7, would be added

DOUBLE = {"dtype": torch.float64, "requires_grad": True}


def pair_by_pair(score, q, k):
    """Scores from a function of one query and one key, for two axes in front of the lengths."""
    return [
        [[[score(a, b) for b in keys] for a in queries] for queries, keys in zip(*heads, strict=True)]
        for heads in zip(q, k, strict=True)
    ]


def cosine(a, b):
    return math.fsum(a * b) / math.hypot(*a) / math.hypot(*b)


@pytest.mark.parametrize(
    ("score", "shapes", "one"),
    [
        (sa.dot_product, [], lambda a, b: math.fsum(a * b)),
        (sa.scaled_dot_product, [], lambda a, b: math.fsum(a * b) / math.sqrt(len(a))),
        (sa.cosine, [], cosine),
        (
            sa.bilinear,
            [(4, 5)],
            lambda a, b, w: math.fsum(a[i] * w[i, j] * b[j] for i in range(4) for j in range(5)),
        ),
        (
            sa.additive,
            [(4, 3), (5, 3), (3,)],
            lambda a, b, w_q, w_k, v: math.fsum(
                v[h] * math.tanh(math.fsum(a * w_q[:, h]) + math.fsum(b * w_k[:, h])) for h in range(3)
            ),
        ),
    ],
    ids=["dot_product", "scaled_dot_product", "cosine", "bilinear", "additive"],
)
class TestEveryScore:
    @pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-6)])
    def test_same_as_pair_by_pair(self, like, xp, normal, score, shapes, one, dtype, tolerance):
        q, k, *weights = (
            normal(2, 3, 6, 4),
            normal(2, 3, 7, 5 if shapes else 4),
            *(normal(*shape) for shape in shapes),
        )
        scores = score(*(like(x, dtype) for x in (q, k, *weights)))
        assert scores.dtype == getattr(xp, dtype)
        exact = np.array(pair_by_pair(lambda a, b: one(a, b, *weights), q, k))
        assert_allclose(scores, exact, atol=tolerance * abs(exact).max())

    def test_leading_axes_broadcast(self, like, normal, score, shapes, one):
        q, k, *weights = (
            normal(2, 1, 6, 4),
            normal(3, 7, 5 if shapes else 4),
            *(normal(*shape) for shape in shapes),
        )
        scores = score(*map(like, (q, k, *weights)))
        assert scores.shape == (2, 3, 6, 7)
        assert_allclose(scores[1, 2, ...], score(*map(like, (q[1, 0], k[2], *weights))), atol=1e-12)

    def test_gradients(self, normal, score, shapes, one):
        shapes = [(3, 4), (2, 5 if shapes else 4), *shapes]
        assert torch.autograd.gradcheck(score, [torch.tensor(normal(*shape), **DOUBLE) for shape in shapes])


def test_numbers_for_a_pencil(like):
    q, k = like([[1.0, 2.0]]), like([[3.0, 4.0], [2.0, -1.0]])
    assert_array_equal(sa.dot_product(q, k), [[11, 0]])
    assert_allclose(sa.scaled_dot_product(q, k), [[11 / math.sqrt(2), 0]], atol=1e-15)
    assert_array_equal(sa.scaled_dot_product(q, k, scale=2.0), [[22, 0]])
    assert_allclose(sa.cosine(q, k), [[11 / (5 * math.sqrt(5)), 0]], atol=1e-15)
    assert_array_equal(sa.bilinear(q, k, like([[0.0, 1.0], [0.0, 0.0]])), [[4, -1]])
    assert_allclose(
        sa.additive(q, k, like([[1.0], [0.0]]), like([[0.0], [1.0]]), like([2.0])), 2 * np.tanh([[5, 0]])
    )


def test_bilinear_is_the_dot_product_of_projections(normal):
    q, k, w_q, w_k = normal(3, 4), normal(5, 6), normal(4, 2), normal(6, 2)
    assert_allclose(sa.bilinear(q, k, w_q @ w_k.T), sa.dot_product(q @ w_q, k @ w_k), atol=1e-12)


@pytest.mark.parametrize("library", [np, torch])
def test_half_precision_scales_before_it_could_overflow(library):
    x = library.full(
        (1, 64), 60.0, dtype=library.float16
    )  # 64 · 60² is over float16's 65504, an eighth of it isn't
    assert_array_equal(sa.scaled_dot_product(x, x), [[28800]])


class TestCosine:
    @given(
        arrays(np.float64, (2, 3), elements=st.floats(0.1, 10)), st.floats(0.01, 100), st.floats(0.01, 100)
    )
    def test_lengths_do_not_count(self, x, a, b):
        assert_allclose(sa.cosine(a * x, b * x), sa.cosine(x, x), atol=1e-12)

    @given(arrays(np.float64, (3, 4), elements=st.floats(-1, 1) | st.floats(-1e300, 1e300)))
    def test_stays_between_minus_one_and_one(self, x):
        assert (abs(sa.cosine(x, x)) <= 1 + 1e-15).all()

    @pytest.mark.parametrize("length", [5e-324, 1e-300, 1e300, 1.7e308])
    def test_tiny_and_huge_vectors_have_a_direction(self, like, length):
        x = like([[length, 0.0], [length, length]])
        assert_allclose(sa.cosine(x, x), [[1, math.sqrt(0.5)], [math.sqrt(0.5), 1]], atol=1e-12)

    def test_a_tiny_vector_beside_a_huge_one_has_a_direction_too(self, like):
        x = like([[1e-200, 0.0], [1e200, 1e200]])
        assert_allclose(sa.cosine(x, x), [[1, math.sqrt(0.5)], [math.sqrt(0.5), 1]], atol=1e-12)

    def test_temperature_divides_and_may_be_an_array(self, like, normal):
        x = like(normal(2, 3, 4))
        plain = np.asarray(sa.cosine(x, x))
        assert_allclose(sa.cosine(x, x, 0.5), 2 * plain, atol=1e-12)
        per_head = sa.cosine(x, x, like([[[0.5]], [[4.0]]]))
        assert_allclose(per_head, plain * [[[2]], [[0.25]]], atol=1e-12)

    def test_a_zero_vector_matches_nothing(self, like, normal):
        assert_array_equal(sa.cosine(like(np.zeros((1, 3))), like(normal(2, 3))), [[0, 0]])

    def test_a_zero_vector_has_a_gradient(self):
        zero = torch.zeros((1, 3), **DOUBLE)
        sa.cosine(zero, torch.ones(2, 3, dtype=torch.float64)).sum().backward()
        assert torch.isfinite(zero.grad).all()


NAMES = {
    sa.dot_product: ["q", "k"],
    sa.scaled_dot_product: ["q", "k"],
    sa.cosine: ["q", "k"],
    sa.bilinear: ["q", "k", "w"],
    sa.additive: ["q", "k", "w_q", "w_k", "v"],
}
PAIR = "q (..., q_len, d_k) and k (..., kv_len, d_k)"
HIDDEN = "q (..., q_len, d_q), k (..., kv_len, d_k), w_q (d_q, d_hidden), w_k (d_k, d_hidden), v (d_hidden,)"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("score", "wanted", "shapes"),
    [
        (sa.dot_product, PAIR, [(2, 3), (2, 4)]),
        (sa.dot_product, PAIR, [(3,), (2, 3)]),
        (sa.scaled_dot_product, PAIR, [(2, 3), (3,)]),
        (sa.cosine, PAIR, [(2, 3), (2, 4)]),
        (sa.bilinear, "w (d_q, d_k)", [(2, 3), (2, 4), (4, 3)]),
        (sa.bilinear, "w (d_q, d_k)", [(2, 3), (2, 4), (3, 3)]),
        (sa.bilinear, "w (d_q, d_k)", [(2, 3), (2, 3), (3, 3, 3)]),
        (sa.additive, HIDDEN, [(2, 3), (2, 4), (4, 5), (4, 5), (5,)]),
        (sa.additive, HIDDEN, [(2, 3), (2, 4), (3, 5), (3, 5), (5,)]),
        (sa.additive, HIDDEN, [(2, 3), (2, 4), (3, 5), (4, 6), (5,)]),
        (sa.additive, HIDDEN, [(2, 3), (2, 4), (3, 5), (4, 5), (6,)]),
        (sa.additive, HIDDEN, [(2, 3), (2, 4), (3,), (4,), ()]),
        (sa.additive, HIDDEN, [(3,), (2, 4), (3, 5), (4, 5), (5,)]),
        (sa.additive, HIDDEN, [(2, 3), (4,), (3, 5), (4, 5), (5,)]),
    ],
)
def test_widths_that_do_not_fit_are_named(like, score, wanted, shapes):
    arrays = {name: like(np.ones(shape)) for name, shape in zip(NAMES[score], shapes, strict=True)}
    message = f"expected {wanted}; got {describe(**arrays)}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        score(**arrays)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("score", "name"), [(score, name) for score in NAMES for name in NAMES[score]])
def test_integers_and_strangers_are_refused(like, score, name):
    x = np.ones((2, 2))
    for wrong, wanted in [
        (like(x, "int64"), "real floating-point arrays"),
        (x.tolist(), "arrays of one library"),
    ]:
        arguments = dict.fromkeys(NAMES[score], like(x)) | {name: wrong}
        message = f"expected {wanted}; got {describe(**arguments)}"
        with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
            score(**arguments)


@pytest.mark.usefixtures("unchecked")
class TestTemperature:
    @pytest.mark.parametrize("wrong", [0, -1.0, np.nan, np.inf])
    def test_a_number_is_positive(self, like, wrong):
        x = like(np.ones((2, 2)))
        with pytest.raises(ValueError, match=f"temperature is a positive number; got {wrong}"):
            sa.cosine(x, x, wrong)

    def test_so_is_each_of_an_array(self, like):
        x = like(np.ones((2, 2)))
        np.testing.assert_allclose(sa.cosine(x, x, like([1.0, 2.0])), [[1, 0.5]] * 2)
        for wrong in ([1.0, 0.0], [np.nan, 1.0]):
            with pytest.raises(ValueError, match="temperatures are positive"):
                sa.cosine(x, x, like(wrong))

    def test_anything_else_is_named(self, like, xp):
        x = like(np.ones((2, 2)))
        for wrong in ("1", None, [1.0], (np if xp is torch else torch).ones(2)):
            with pytest.raises(TypeError, match="temperature is a number, or an array of q's library; got"):
                sa.cosine(x, x, wrong)
