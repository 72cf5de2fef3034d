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
from selfattn import linear
from selfattn.arrays import describe

assert_allclose = partial(np.testing.assert_allclose, rtol=0)  # its own default, 1e-7, would be added

chunks = st.integers(1, 7)
parts = st.lists(st.integers(0, 4), min_size=1, max_size=4)


@st.composite
def problems(draw, causal=False):
    """Queries, keys and values; when causal, as many queries as keys."""
    kv_len, d_k, d_v = draw(st.integers(0, 9)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    shapes = (kv_len if causal else draw(st.integers(0, 6)), d_k), (kv_len, d_k), (kv_len, d_v)
    return [draw(arrays(np.float64, shape, elements=st.floats(-9, 9))) for shape in shapes]


def by_the_matrix(q, k, v, causal=False, feature_map=None):
    """The n × n matrix of products, its rows divided by their sums, times the values."""
    features = feature_map or (lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))) + 1)
    weights = np.einsum("...if,...jf->...ij", features(q), features(k))
    if causal:
        weights = np.where(np.arange(q.shape[-2])[:, None] >= np.arange(k.shape[-2]), weights, 0)
    total = weights.sum(-1, keepdims=True)
    return np.divide(weights, total, out=np.zeros_like(weights), where=total != 0) @ v


def one_by_one(q, k, v, **options):
    """The outputs of the recurrent form, a token at a time."""
    state, outputs = None, []
    for t in range(q.shape[-2]):
        state, output = sa.linear_attention_step(state, *(x[..., t : t + 1, :] for x in (q, k, v)), **options)
        outputs.append(np.asarray(output))
    return np.concatenate(outputs, axis=-2)


def relu(x):
    return (x + abs(x)) / 2


class TestFeatures:
    def test_elu_plus_one(self, like, normal):
        x = 5 * normal(3, 4)
        expected = torch.nn.functional.elu(torch.tensor(x)) + 1
        assert_allclose(sa.elu_plus_one(like(x)), expected, atol=1e-14)

    def test_no_branch_overflows(self, like):
        x = [-np.inf, -1e300, -800.0, 0.0, 800.0, 1e300]
        assert_array_equal(sa.elu_plus_one(like(x)), [0, 0, 0, 1, 801, 1e300])
        assert np.isnan(np.asarray(sa.elu_plus_one(like([np.nan])))).all()

    def test_slope(self):
        x = torch.tensor([-1e4, -1.0, 0.0, 1.0, 1e4], dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(sa.elu_plus_one(x).sum(), x)
        assert_allclose(slope, [0, np.exp(-1), 1, 1, 1], atol=1e-15)


SHAPES = {
    "one head": ((9, 4), (9, 4), (9, 3)),
    "heads": ((2, 3, 9, 4), (2, 3, 9, 4), (2, 3, 9, 5)),
    "grouped heads": ((2, 6, 9, 4), (2, 2, 9, 4), (2, 3, 9, 5)),
    "one head for all": ((2, 6, 9, 4), (2, 1, 9, 4), (2, 1, 9, 5)),
    "batches that broadcast": ((2, 1, 3, 9, 4), (4, 3, 9, 4), (1, 4, 3, 9, 5)),
    "longer than two chunks": ((2, 2 * linear.CHUNK + 5, 4),) * 3,
}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("case", SHAPES)
def test_all_forms_are_the_matrix(like, normal, case, causal):
    q, k, v = (normal(*shape) for shape in SHAPES[case])
    inputs = [like(x) for x in (q, k, v)]
    repeated = [x if x.ndim < 3 else x.repeat(q.shape[-3] // x.shape[-3], -3) for x in (k, v)]
    expected = by_the_matrix(q, *repeated, causal)
    assert_allclose(sa.linear_attention(*inputs, causal=causal), expected, atol=1e-12)
    if causal:
        assert_allclose(one_by_one(*inputs), expected, atol=1e-12)


@given(problems())
def test_any_lengths(like, problem):
    assert_allclose(sa.linear_attention(*map(like, problem)), by_the_matrix(*problem), atol=1e-12)


@given(problems(causal=True), chunks, st.sampled_from([None, relu, np.square]))
def test_any_chunks(problem, chunk, feature_map):
    options = {} if feature_map is None else {"feature_map": feature_map}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "CHUNK", chunk)
        output = sa.linear_attention(*problem, causal=True, **options)
    assert_allclose(output, by_the_matrix(*problem, causal=True, **options), atol=1e-11)


@given(parts, st.sampled_from([None, relu]))
def test_the_past_may_come_in_any_parts(like, parts, feature_map):
    options = {} if feature_map is None else {"feature_map": feature_map}
    q, k, v = np.random.default_rng(0).standard_normal((3, 2, sum(parts), 3))
    state, start, outputs = None, 0, [np.zeros((2, 0, 3))]
    for part in parts:
        some = (like(x[:, start : start + part]) for x in (q, k, v))
        state, output = sa.linear_attention_step(state, *some, **options)
        outputs.append(np.asarray(output))
        start += part
    assert_allclose(np.concatenate(outputs, 1), by_the_matrix(q, k, v, causal=True, **options), atol=1e-12)
    features = (feature_map or sa.elu_plus_one)(k)
    assert_allclose(state.s, np.einsum("hnf,hnv->hfv", features, v), atol=1e-12)
    assert_allclose(state.z[..., 0], features.sum(1), atol=1e-12)


def test_a_step_leaves_the_old_state_as_it_was(like, normal):
    q, k, v = (like(normal(1, 2)) for _ in range(3))
    first, _ = sa.linear_attention_step(None, q, k, v)
    before = [np.asarray(x).copy() for x in first]
    again = [np.asarray(sa.linear_attention_step(first, q, k, v)[1]) for _ in range(2)]
    assert_array_equal(again[0], again[1])
    assert_array_equal(first.s, before[0])
    assert_array_equal(first.z, before[1])


def test_no_token_sees_a_later_one(normal):
    q, k, v = (normal(9, 3) for _ in range(3))
    before = sa.linear_attention(q, k, v, causal=True)[:5]
    k[5:], v[5:] = 1e3, -1e3
    assert_array_equal(sa.linear_attention(q, k, v, causal=True)[:5], before)


def test_the_matrix_is_never_held(normal):
    n, sizes = 5 * linear.CHUNK, []

    class Spy(np.ndarray):
        def __array_finalize__(self, _):
            sizes.append(self.size)

    inputs = [normal(n, 2).view(Spy) for _ in range(3)]
    sa.linear_attention(*inputs, causal=True)
    sa.linear_attention(*inputs)
    assert 0 < max(sizes) <= max(linear.CHUNK**2, 2 * n)


class TestZeroDenominators:
    @pytest.mark.parametrize("causal", [False, True])
    def test_the_output_is_zero(self, like, causal):
        q, k, v = like([[-1.0], [2.0], [-3.0]]), like([[-1.0], [2.0], [1.0]]), like([[5.0], [7.0], [9.0]])
        expected = [[0], [7], [0]] if causal else [[0], [(14 + 9) / 3], [0]]
        output = sa.linear_attention(q, k, v, causal=causal, feature_map=relu)
        assert_allclose(output, expected, atol=1e-14)

    @pytest.mark.parametrize("causal", [False, True])
    def test_features_too_small_for_floating_point(self, like, causal):
        x = like([[-1e4, -1e4]])
        assert_array_equal(sa.linear_attention(x, x, like([[3.0]]), causal=causal), [[0]])

    def test_no_gradient_passes(self):
        """Opposite features cancel: numerator and slopes are not zero, only the denominator is."""
        q, k, v = ([[1.0], [1.0]], [[1.0], [-1.0]], [[1.0], [2.0]])
        inputs = [torch.tensor(x, requires_grad=True) for x in (q, k, v)]
        for causal, expected in [(True, [[1.0], [0.0]]), (False, [[0.0], [0.0]])]:
            output = sa.linear_attention(*inputs, causal=causal, feature_map=lambda x: x)
            assert_array_equal(output.detach(), expected)
            for gradient in torch.autograd.grad(output[1].sum(), inputs):
                assert_array_equal(gradient, np.zeros((2, 1)))

    def test_without_keys(self, like, normal):
        output = sa.linear_attention(like(normal(3, 2)), like(np.ones((0, 2))), like(np.ones((0, 5))))
        assert_array_equal(output, np.zeros((3, 5)))

    @pytest.mark.parametrize("causal", [False, True])
    def test_without_tokens(self, like, causal):
        x = like(np.ones((2, 0, 4)))
        assert sa.linear_attention(x, x, x, causal=causal).shape == (2, 0, 4)


class TestGradients:
    @pytest.mark.parametrize("causal", [False, True])
    def test_of_all_inputs(self, normal, monkeypatch, causal):
        monkeypatch.setattr(linear, "CHUNK", 2)
        shapes = [(2, 5, 2), (1, 5, 2), (1, 5, 3)]
        inputs = [torch.tensor(normal(*shape), requires_grad=True) for shape in shapes]

        def attend(q, k, v):
            return sa.linear_attention(q, k, v, causal=causal)

        assert torch.autograd.gradcheck(attend, inputs)
        assert torch.autograd.gradgradcheck(attend, inputs)

    @pytest.mark.parametrize("causal", [False, True])
    def test_vmap_is_a_leading_axis(self, normal, causal):
        inputs = [torch.tensor(normal(*shape)) for shape in [(3, 4, 5, 2), (3, 2, 5, 2), (3, 2, 5, 2)]]

        def attend(q, k, v):
            return sa.linear_attention(q, k, v, causal=causal)

        assert_allclose(torch.func.vmap(attend)(*inputs), attend(*inputs), atol=1e-14)

    def test_through_the_state(self, normal):
        def second_output(q, k, v):
            state, _ = sa.linear_attention_step(None, q[:2], k[:2], v[:2])
            return sa.linear_attention_step(state, q[2:], k[2:], v[2:])[1]

        inputs = [torch.tensor(normal(3, 2), requires_grad=True) for _ in range(3)]
        assert torch.autograd.gradcheck(second_output, inputs)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("make", "epsilon"),
    [
        (lambda x: x.astype(np.float16), 2**-11),
        (lambda x: torch.tensor(x, dtype=torch.float16), 2**-11),
        (lambda x: torch.tensor(x, dtype=torch.bfloat16), 2**-8),
        (lambda x: x.astype(np.float32), 2**-20),
    ],
    ids=["numpy float16", "torch float16", "torch bfloat16", "numpy float32"],
)
class TestPrecision:
    def test_keeps_its_type_and_rounds_only_once(self, normal, make, epsilon, causal):
        q, k, v = (make(normal(2, 200, 4)) for _ in range(3))
        output = sa.linear_attention(q, k, v, causal=causal)
        assert output.dtype == q.dtype
        exact = by_the_matrix(*(torch.as_tensor(x).double().numpy() for x in (q, k, v)), causal)
        assert_allclose(torch.as_tensor(output).double(), exact, rtol=epsilon, atol=2e-6)

    def test_sums_what_its_own_type_cannot_hold(self, make, epsilon, causal):
        x, ones = make(np.full((1000, 1), 100.0)), make(np.ones((1000, 1)))  # 1000 * 101**2 > 65504
        assert_allclose(
            torch.as_tensor(sa.linear_attention(x, x, ones, causal=causal)).double(), 1, rtol=epsilon
        )

    def test_the_state_is_kept_in_float32(self, make, epsilon, causal):
        x = make(np.ones((3, 1)))
        state, output = sa.linear_attention_step(None, x, x, x)
        assert "float32" in str(state.s.dtype)
        assert "float32" in str(state.z.dtype)
        assert output.dtype == x.dtype


FIT = "expected q (..., q_len, d_k) and k (..., kv_len, d_k)"
CAUSAL = "causal queries and keys need equal lengths"
HEADS = "key and value heads must divide the query heads"


@pytest.mark.usefixtures("unchecked")
class TestErrors:
    @pytest.mark.parametrize(
        ("shapes", "causal", "wanted", "named"),
        [
            ([(2, 3), (4, 5), (4, 3)], False, FIT, "q k"),
            ([(4, 3), (4, 5), (4, 3)], True, FIT, "q k"),
            ([(2, 3), (4, 3), (4, 3)], True, CAUSAL, "q k"),
            ([(5, 3), (4, 3), (4, 3)], True, CAUSAL, "q k"),
            ([(2, 3), (4, 3), (5, 3)], False, "expected as many values as keys", "k v"),
            ([(2, 3), (2, 3), (3, 3)], True, "expected as many values as keys", "k v"),
            ([(3,), (4, 3), (4, 3)], False, "expected at least two axes, (..., length, width)", "q k v"),
            ([(4, 2, 3), (3, 2, 3), (3, 2, 3)], True, HEADS, "q k v"),
        ],
    )
    def test_shapes_that_do_not_fit(self, like, shapes, causal, wanted, named):
        arrays = {name: like(np.ones(shape)) for name, shape in zip("qkv", shapes, strict=True)}
        seen = describe(**{name: arrays[name] for name in named.split()})
        with pytest.raises(ValueError, match=f"^{re.escape(f'{wanted}; got {seen}')}$"):
            sa.linear_attention(**arrays, causal=causal)
        if causal:
            with pytest.raises(ValueError, match=f"^{re.escape(f'{wanted}; got {seen}')}$"):
                sa.linear_attention_step(None, **arrays)

    @pytest.mark.parametrize("name", ["q", "k", "v"])
    @pytest.mark.parametrize("attend", [sa.linear_attention, partial(sa.linear_attention_step, None)])
    def test_strangers_and_integers(self, like, attend, name):
        x = np.ones((2, 2))
        for wrong, wanted in [
            (x.tolist(), "expected arrays of one library"),
            (like(x, "int64"), "expected real floating-point arrays"),
        ]:
            arguments = dict.fromkeys(["q", "k", "v"], like(x)) | {name: wrong}
            with pytest.raises(TypeError, match=f"^{re.escape(f'{wanted}; got {describe(**arguments)}')}$"):
                attend(**arguments)
