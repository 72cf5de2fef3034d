import functools
import re
import tracemalloc
from functools import partial

import array_api_strict
import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.testing import assert_array_equal

import selfattn as sa
from selfattn.arrays import describe
from selfattn.softmax import average, merge, summarize

assert_allclose = partial(np.testing.assert_allclose, rtol=0)  # its own default, 1e-7, would be added

ELSEWHERE = array_api_strict.Device("device1")
rows = arrays(np.float64, array_shapes(max_dims=3), elements=st.floats(-50, 50) | st.just(-np.inf))


def test_two_scores_one_apart(like, xp):
    weights = sa.softmax(like([0.0, 1.0]))
    assert type(weights) is type(like(0.0))
    assert_allclose(weights, np.array([1, np.e]) / (1 + np.e), atol=1e-15)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-6)])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_same_as_scipy(like, xp, axis, dtype, tolerance):
    x = 5 * np.random.default_rng(0).standard_normal((3, 4, 5))
    weights = sa.softmax(like(x, dtype), axis)
    assert weights.dtype == getattr(xp, dtype)
    assert_allclose(weights, scipy.special.softmax(x, axis), atol=tolerance)


@given(rows)
def test_rows_sum_to_one_or_to_zero_where_all_is_forbidden(like, x):
    weights = np.asarray(sa.softmax(like(x)))
    assert (weights >= 0).all()
    assert_allclose(weights.sum(-1), np.isfinite(x).any(-1), atol=1e-12)
    assert_array_equal(weights[x == -np.inf], 0)


@given(rows, st.floats(-100, 100))
def test_a_shift_changes_nothing(x, shift):
    assert_allclose(sa.softmax(x + shift), sa.softmax(x), atol=1e-12)


@given(rows)
def test_a_forbidden_score_is_as_good_as_an_absent_one(x):
    row = x.reshape(-1)
    weights = sa.softmax(row)
    assert_allclose(weights[np.isfinite(row)], sa.softmax(row[np.isfinite(row)]), atol=1e-12)


@pytest.mark.parametrize(
    ("scores", "weights"),
    [
        ([-np.inf, -np.inf], [0, 0]),
        ([-np.inf, 3.0], [0, 1]),
        ([np.inf, 0.0, np.inf], [0.5, 0, 0.5]),
        ([1e308, 0.0, -1e308], [1, 0, 0]),
        ([-1e308, -1e308], [0.5, 0.5]),
        ([np.finfo(float).max, -np.finfo(float).max], [1, 0]),  # their difference is no number
        ([1000.0, 1000.0 + np.log(3)], [0.25, 0.75]),
        ([-1000.0, -1000.0 + np.log(3)], [0.25, 0.75]),
        ([7.0], [1]),
        ([], []),
        ([[0.0, 0.0], [1000.0, 1000.0]], [[0.5, 0.5], [0.5, 0.5]]),  # each row has its own maximum
    ],
)
def test_edges(like, scores, weights):
    assert_allclose(sa.softmax(like(scores)), weights, atol=1e-12)


def test_no_keys_at_all(like):
    assert sa.softmax(like(np.zeros((2, 0)))).shape == (2, 0)


def test_not_a_number_stays_visible(like):
    assert np.isnan(np.asarray(sa.softmax(like([np.nan, 0.0])))).all()


@pytest.mark.parametrize(
    ("make", "epsilon"),
    [
        (lambda x: x.astype(np.float16), 2**-11),
        (lambda x: torch.tensor(x, dtype=torch.float16), 2**-11),
        (lambda x: torch.tensor(x, dtype=torch.bfloat16), 2**-8),
    ],
    ids=["numpy float16", "torch float16", "torch bfloat16"],
)
class TestHalfPrecision:
    def test_keeps_its_type_and_rounds_only_once(self, make, epsilon):
        x = make(np.append(np.linspace(-4, 4, 32), -np.inf))
        weights = sa.softmax(x)
        assert weights.dtype == x.dtype
        exact = torch.softmax(torch.as_tensor(x).double(), -1)
        assert_allclose(torch.as_tensor(weights).double(), exact, rtol=epsilon, atol=2**-25)
        column = sa.softmax(x[:, None], axis=0)[:, 0]
        assert_array_equal(torch.as_tensor(column).double(), torch.as_tensor(weights).double())

    def test_sums_what_its_own_type_cannot_hold(self, make, epsilon):
        n = 100_000  # more than the 65504 that float16 reaches
        assert_allclose(torch.as_tensor(sa.softmax(make(np.zeros(n)))).double(), 1 / n, rtol=2**-8)


def test_gradients_are_torchs_own_and_none_is_nan_where_all_is_forbidden():
    x = torch.tensor([[0.3, -1.0, 2.0], [1.0, -torch.inf, 0.5]], dtype=torch.float64, requires_grad=True)
    cotangent = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]], dtype=torch.float64)
    (ours,) = torch.autograd.grad(sa.softmax(x), x, cotangent)
    (theirs,) = torch.autograd.grad(torch.softmax(x, -1), x, cotangent)
    assert_allclose(ours, theirs, atol=1e-12)

    empty = torch.full((2,), -torch.inf, requires_grad=True)
    (gradient,) = torch.autograd.grad(sa.softmax(empty).sum(), empty)
    assert_array_equal(gradient, [0, 0])


@given(arrays(np.float64, array_shapes(max_dims=1, max_side=6), elements=st.floats(-10, 10)))
def test_jacobian_is_what_automatic_differentiation_finds(like, x):
    expected = torch.autograd.functional.jacobian(lambda x: torch.softmax(x, -1), torch.tensor(x))
    assert_allclose(sa.softmax_jacobian(like(scipy.special.softmax(x))), expected, atol=1e-12)


def test_jacobian_of_many_rows(like):
    weights = np.array([[[0.5, 0.5], [1.0, 0.0]]])
    jacobian = sa.softmax_jacobian(like(weights))
    assert_allclose(jacobian, [[[[0.25, -0.25], [-0.25, 0.25]], [[0, 0], [0, 0]]]], atol=1e-15)


def test_what_is_made_has_the_type_and_the_device_of_the_weights():
    weights = array_api_strict.asarray([[0.5, 0.5]], dtype=array_api_strict.float32, device=ELSEWHERE)
    assert sa.softmax_jacobian(torch.ones(1, dtype=torch.float64)).dtype == torch.float64
    assert sa.softmax_jacobian(weights).dtype == array_api_strict.float32
    assert sa.softmax_jacobian(weights).device == ELSEWHERE
    assert average(merge(summarize(weights, weights.mT), summarize(weights, weights.mT))).device == ELSEWHERE


@given(rows, st.integers(0, 9))
def test_backward_is_the_product_with_the_jacobian(like, x, seed):
    weights, gradient = sa.softmax(x), np.random.default_rng(seed).standard_normal(x.shape)
    expected = np.einsum("...i,...ij->...j", gradient, sa.softmax_jacobian(weights))
    assert_allclose(sa.softmax_backward(like(weights), like(gradient)), expected, rtol=0, atol=1e-12)


def test_backward_broadcasts(like, normal):
    weights, gradient = scipy.special.softmax(normal(3, 1, 4), -1), normal(2, 4)
    expected = np.einsum(
        "ai,bi,aij->abj", weights[:, 0] * 0 + 1, gradient, sa.softmax_jacobian(weights[:, 0])
    )
    assert_allclose(sa.softmax_backward(like(weights), like(gradient)), expected, rtol=0, atol=1e-14)


REAL, ONE_LIBRARY = "expected real floating-point arrays", "expected arrays of one library"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("function", "names"),
    [
        (sa.softmax, ["x"]),
        (sa.softmax_jacobian, ["weights"]),
        (sa.softmax_backward, ["weights", "gradient"]),
        (summarize, ["scores", "v"]),
    ],
)
def test_integers_and_strangers_are_refused(like, function, names):
    x = np.ones((2, 2))
    for name in names:
        for wrong, wanted in [(like(x, "int64"), REAL), (x.tolist(), ONE_LIBRARY)]:
            arguments = dict.fromkeys(names, like(x)) | {name: wrong}
            with pytest.raises(TypeError, match=f"^{re.escape(f'{wanted}; got {describe(**arguments)}')}$"):
                function(**arguments)


@pytest.mark.usefixtures("unchecked")
def test_backward_refuses_another_length(like):
    arrays = {"weights": like([0.5, 0.5]), "gradient": like([1.0, 2.0, 3.0])}
    message = f"expected as many weights as gradients; got {describe(**arrays)}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        sa.softmax_backward(**arrays)


@st.composite
def seen(draw):
    """Scores of two queries for some keys, forbidden ones among them, and the keys' values."""
    kv_len = draw(st.integers(0, 5))
    scores = draw(arrays(np.float64, (2, kv_len), elements=st.floats(-50, 50) | st.just(-np.inf)))
    return scores, draw(arrays(np.float64, (kv_len, 3), elements=st.floats(-9, 9)))


def same(a, b):
    for one, other in zip(a, b, strict=True):
        assert_allclose(one, other, atol=1e-12)


class TestPartial:
    @given(st.lists(seen(), min_size=1, max_size=4))
    def test_parts_make_up_the_whole(self, like, parts):
        scores, values = (
            np.concatenate(x, axis=axis) for x, axis in zip(zip(*parts, strict=True), (1, 0), strict=True)
        )
        merged = functools.reduce(merge, [summarize(like(s), like(v)) for s, v in parts])
        assert_allclose(average(merged), sa.softmax(scores) @ values, atol=1e-12)

    @pytest.mark.parametrize("cut", [0, 2, 6])
    def test_leading_axes(self, like, normal, cut):
        scores, values = normal(4, 3, 6), normal(4, 6, 2)
        parts = (scores[..., :cut], values[:, :cut]), (scores[..., cut:], values[:, cut:])
        a, b = (summarize(*map(like, part)) for part in parts)
        assert_allclose(average(merge(a, b)), scipy.special.softmax(scores, -1) @ values, atol=1e-12)

    def test_numpys_scores_are_overwritten_and_not_copied(self):
        scores, values = np.zeros((64, 4096)), np.ones((4096, 2))
        tracemalloc.start()
        summarize(scores, values)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < scores.nbytes / 4

    def test_parts_of_two_libraries_do_not_merge(self):
        a, b = summarize(np.ones((2, 1)), np.ones((1, 2))), summarize(torch.ones(2, 1), torch.ones(1, 2))
        for parts in ((a, b), (b, a)):
            with pytest.raises(TypeError, match="namespaces"):
                merge(*parts)

    @given(seen(), seen(), seen())
    def test_merging_knows_no_order_and_no_grouping(self, a, b, c):
        a, b, c = (summarize(*part) for part in (a, b, c))
        same(merge(a, b), merge(b, a))
        same(merge(merge(a, b), c), merge(a, merge(b, c)))

    @given(seen())
    def test_no_keys_change_nothing(self, like, part):
        part = summarize(*map(like, part))
        nothing = summarize(like(np.zeros((2, 0))), like(np.zeros((0, 3))))
        same(nothing, ([[-np.inf]] * 2, np.zeros((2, 1)), np.zeros((2, 3))))
        same(merge(nothing, part), part)
        assert_array_equal(average(nothing), np.zeros((2, 3)))

    @pytest.mark.parametrize(
        ("scores", "expected"),
        [
            ([1e308, -1e308], 1),
            ([-1e308, -1e308], 2),
            ([np.inf, 0], 1),
            ([-1.7e308, -np.inf], 1),
            ([1000, 1000], 2),
        ],
    )
    def test_huge_scores(self, like, scores, expected):
        parts = [
            summarize(like([[score]]), like([[value]]))
            for score, value in zip(scores, (1.0, 3.0), strict=True)
        ]
        assert_allclose(average(merge(*parts)), [[expected]])
        assert_allclose(average(summarize(like([scores]), like([[1.0], [3.0]]))), [[expected]])

    def test_gradients_where_all_is_forbidden(self):
        scores = torch.tensor(
            [[0.3, -torch.inf], [-torch.inf, -torch.inf]], dtype=torch.float64, requires_grad=True
        )
        values = torch.tensor([[1.0], [2.0]], dtype=torch.float64, requires_grad=True)
        parts = [summarize(scores[:, j : j + 1], values[j : j + 1]) for j in range(2)]
        average(merge(*parts)).sum().backward()
        assert_array_equal(scores.grad, np.zeros((2, 2)))
        assert_array_equal(values.grad, [[1], [0]])
