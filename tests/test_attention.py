import math
import sys
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_array_equal
from torch.nn.functional import scaled_dot_product_attention

import selfattn as sa

assert_allclose = partial(np.testing.assert_allclose, rtol=0)  # its own default, 1e-7, would be added

SIZES = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))


@st.composite
def problems(draw):
    """Queries, keys, values and a mask; the mask may leave a query nothing."""
    q_len, kv_len, d_k, d_v = draw(SIZES)
    shapes = (q_len, d_k), (kv_len, d_k), (kv_len, d_v)
    q, k, v = (draw(arrays(np.float64, shape, elements=st.floats(-9, 9))) for shape in shapes)
    return q, k, v, draw(arrays(np.bool, (q_len, kv_len)))


class TestClosedForms:
    def test_scores_zero_and_one(self, like):
        q, k, v = like([[2.0, 0, 0, 0]]), like([[0, 5.0, 0, 0], [1.0, 0, 0, 0]]), like([[10.0], [20.0]])
        e = math.e
        assert_allclose(sa.attention_weights(q, k), [[1 / (1 + e), e / (1 + e)]], atol=1e-15)
        assert_allclose(sa.attention(q, k, v), [[(10 + 20 * e) / (1 + e)]], atol=1e-12)

    def test_equal_scores_average_what_the_mask_allows(self, like):
        x, v = like(np.zeros((4, 2))), like([[1.0], [3.0], [8.0], [0.0]])
        assert_allclose(sa.attention(x, x, v, mask=sa.causal), [[1], [2], [4], [3]], atol=1e-12)

    def test_a_bias_is_a_prior(self, like):
        x = like(np.zeros((1, 2)))
        weights = sa.attention_weights(x, like(np.zeros((3, 2))), bias=like(np.log([[1.0, 2.0, 5.0]])))
        assert_allclose(weights, [[0.125, 0.25, 0.625]], atol=1e-15)

    def test_softcap_comes_after_the_scale_and_before_the_bias(self, like):
        q, k, bias = like([[6.0]]), like([[1.0], [0.0]]), like([[0.0, 100.0]])
        score = 2 * math.tanh(0.5 * 6 / 2)
        odds = math.exp(score - 100)
        weights = sa.attention(q, k, like(np.eye(2)), scale=0.5, softcap=2.0, bias=bias)
        assert_allclose(weights, [[odds / (1 + odds), 1 / (1 + odds)]], rtol=1e-12)

    def test_softcap_does_not_soften_the_mask(self, like):
        x = like(np.ones((3, 3)))
        weights = np.asarray(sa.attention_weights(x, x, mask=sa.causal, softcap=1.0))
        assert_array_equal(weights[np.triu_indices(3, 1)], 0)


rng = np.random.default_rng(0)
BIAS = rng.standard_normal((3, 5, 6))
MASKS = rng.random((6, 5, 6)) < 0.5
MASKS[..., 0] = True  # torch has its own answer for queries that may attend nowhere
MASK, PER_BATCH = MASKS[0], MASKS[:2, None, :1]
PLAIN = (2, 3, 5, 4), (2, 3, 6, 4), (2, 3, 6, 7)
GROUPED = (2, 6, 5, 4), (2, 2, 6, 4), (2, 2, 6, 7)
CASES = {  # shapes of q, k and v, our options, torch's
    "values wider than keys": (PLAIN, {}, {}),
    "mask": (PLAIN, {"mask": MASK}, {"attn_mask": MASK}),
    "mask per batch": (PLAIN, {"mask": PER_BATCH}, {"attn_mask": PER_BATCH}),
    "bias": (PLAIN, {"bias": BIAS}, {"attn_mask": BIAS}),
    "scale": (PLAIN, {"scale": 0.7}, {"scale": 0.7}),
    "causal": (((2, 3, 5, 4),) * 3, {"mask": sa.causal}, {"is_causal": True}),
    "everything": (
        PLAIN,
        {"mask": MASK, "bias": BIAS, "scale": 0.3},
        {"attn_mask": np.where(MASK, BIAS, -np.inf), "scale": 0.3},
    ),
    "grouped heads": (GROUPED, {}, {"enable_gqa": True}),
    "grouped heads, mask per head": (GROUPED, {"mask": MASKS}, {"enable_gqa": True, "attn_mask": MASKS}),
    "one head for all": (((2, 6, 5, 4), (2, 1, 6, 4), (2, 1, 6, 7)), {}, {"enable_gqa": True}),
    "no leading axes": (((5, 4), (6, 4), (6, 7)), {}, {}),
    "many leading axes": (((2, 1, 3, 2, 5, 4), (2, 1, 3, 2, 6, 4), (2, 1, 3, 2, 6, 7)), {}, {}),
    "batches that broadcast": (((3, 1, 3, 5, 4), (4, 3, 6, 4), (1, 4, 3, 6, 7)), {}, {}),
    "one query, one key": (((1, 1, 4), (1, 1, 4), (1, 1, 7)), {}, {}),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-6)])
@pytest.mark.parametrize("case", CASES)
def test_same_as_torch(like, xp, normal, case, dtype, tolerance):
    shapes, options, torchs = CASES[case]
    inputs = [normal(*shape) for shape in shapes]
    options = {
        name: like(option, "bool" if name == "mask" else dtype) if isinstance(option, np.ndarray) else option
        for name, option in options.items()
    }
    output = sa.attention(*(like(x, dtype) for x in inputs), **options)
    torchs = {name: torch.tensor(x) if isinstance(x, np.ndarray) else x for name, x in torchs.items()}
    expected = scaled_dot_product_attention(*map(torch.tensor, inputs), **torchs)
    assert output.dtype == getattr(xp, dtype)
    assert_allclose(output, expected, atol=tolerance, rtol=tolerance)


def test_values_may_have_head_groups_of_their_own(normal):
    q, k, v = normal(4, 5, 2), normal(4, 5, 2), normal(2, 5, 3)
    assert_allclose(sa.attention(q, k, v), sa.attention(q, k, v[[0, 0, 1, 1]]), atol=1e-12)


def test_keys_without_a_head_axis_serve_every_head(normal):
    q, k, v = normal(3, 5, 2), normal(6, 2), normal(6, 4)
    assert_allclose(sa.attention(q, k, v), [sa.attention(head, k, v) for head in q], atol=1e-12)


class TestProperties:
    @given(problems())
    def test_rows_sum_to_one_or_to_zero_where_nothing_is_allowed(self, like, problem):
        q, k, v, mask = problem
        weights = np.asarray(sa.attention_weights(like(q), like(k), mask=like(mask, "bool")))
        assert ((weights >= 0) & (weights <= 1)).all()
        assert_array_equal(weights[~mask], 0)
        assert_allclose(weights.sum(-1), mask.any(-1), atol=1e-12)
        empty = np.asarray(sa.attention(like(q), like(k), like(v), mask=like(mask, "bool")))[~mask.any(-1)]
        assert_array_equal(empty, 0)

    @given(problems(), st.randoms(use_true_random=False))
    def test_the_order_of_keys_and_of_queries_is_unknown_to_it(self, problem, random):
        q, k, v, mask = problem
        output = sa.attention(q, k, v, mask=mask)
        i = random.sample(range(len(q)), len(q))
        j = random.sample(range(len(k)), len(k))
        assert_allclose(sa.attention(q, k[j], v[j], mask=mask[:, j]), output, atol=1e-12)
        assert_allclose(sa.attention(q[i], k, v, mask=mask[i]), output[i], atol=1e-12)

    @given(problems(), st.floats(-20, 20))
    def test_a_bias_that_is_the_same_for_all_keys_changes_nothing(self, problem, shift):
        q, k, v, mask = problem
        bias = np.full((len(q), 1), shift)
        assert_allclose(
            sa.attention(q, k, v, mask=mask, bias=bias), sa.attention(q, k, v, mask=mask), atol=1e-11
        )

    @given(problems(), arrays(np.float64, 4, elements=st.floats(-1, 1)))
    def test_outputs_lie_among_the_allowed_values(self, problem, direction):
        q, k, v, mask = problem
        reach, output = (
            v @ direction[: v.shape[1]],
            sa.attention(q, k, v, mask=mask) @ direction[: v.shape[1]],
        )
        for allowed, seen in zip(mask, output, strict=True):
            if allowed.any():
                assert reach[allowed].min() - 1e-12 <= seen <= reach[allowed].max() + 1e-12

    @given(problems(), st.integers(0, 4))
    def test_no_token_sees_a_later_one(self, problem, now):
        q, k, v, _ = problem
        before = sa.attention(q, k, v, mask=sa.causal)[: now + 1]
        k, v = k.copy(), v.copy()
        k[now + 1 :], v[now + 1 :] = 1e3, -1e3
        assert_array_equal(sa.attention(q, k, v, mask=sa.causal)[: now + 1], before)

    @given(problems())
    def test_a_forbidden_key_is_as_good_as_an_absent_one(self, problem):
        q, k, v, mask = problem
        allowed = mask[0]
        masked = sa.attention(q, k, v, mask=allowed[None, :])
        assert_allclose(masked, sa.attention(q, k[allowed], v[allowed]), atol=1e-12)

    @given(problems(), st.sampled_from([1e-6, 1e9]))
    def test_softcap_goes_from_uniform_weights_to_no_cap(self, problem, softcap):
        q, k, _, mask = problem
        uniform = mask / np.maximum(mask.sum(-1, keepdims=True), 1)
        expected = uniform if softcap < 1 else sa.attention_weights(q, k, mask=mask)
        assert_allclose(sa.attention_weights(q, k, mask=mask, softcap=softcap), expected, atol=1e-5)


class TestEdges:
    def test_minus_infinity_in_the_bias_forbids(self, like, normal):
        q, k, bias = normal(3, 4), normal(6, 4), np.where(MASK, BIAS[0], -np.inf)[:3]
        bias[1] = -np.inf
        weights = np.asarray(sa.attention_weights(like(q), like(k), bias=like(bias)))
        assert_array_equal(weights == 0, bias == -np.inf)
        assert_allclose(weights.sum(-1), [1, 0, 1], atol=1e-12)

    def test_it_forbids_a_score_that_overflowed_too(self, like):
        q, k = like([[1e30]], "float32"), like([[1e30], [1.0], [2.0]], "float32")
        bias = like([[-np.inf, 0.0, -np.inf]], "float32")
        with np.errstate(over="ignore"):
            assert_array_equal(sa.attention_weights(q, k), [[1, 0, 0]])
            assert_array_equal(sa.attention_weights(q, k, bias=bias), [[0, 1, 0]])

    def test_without_keys_the_output_is_zero(self, like, normal):
        output = sa.attention(
            like(normal(2, 3, 4)), like(np.ones((2, 0, 4))), like(np.ones((2, 0, 5))), mask=sa.causal
        )
        assert_array_equal(output, np.zeros((2, 3, 5)))

    def test_without_queries_there_is_no_output(self, like, normal):
        assert sa.attention(like(np.ones((0, 4))), like(normal(3, 4)), like(normal(3, 5))).shape == (0, 5)

    def test_huge_scores_choose_the_largest(self, like):
        q, k = like([[1e154]]), like([[1e154], [-1e154], [0.0]])
        assert_array_equal(sa.attention_weights(q, k), [[1, 0, 0]])
        assert_allclose(sa.attention_weights(q, k, mask=~sa.causal), [[0, 0, 1]])

    def test_a_mask_that_broadcasts_from_one_axis(self, like):
        weights = sa.attention_weights(
            like(np.ones((2, 3, 4))), like(np.ones((2, 2, 4))), mask=like([True, False], "bool")
        )
        assert_array_equal(weights, np.broadcast_to([1, 0], (2, 3, 2)))

    @pytest.mark.parametrize(
        ("make", "epsilon"),
        [
            (lambda x: x.astype(np.float16), 2**-10),
            (lambda x: torch.tensor(x, dtype=torch.float16), 2**-10),
            (lambda x: torch.tensor(x, dtype=torch.bfloat16), 2**-7),
        ],
        ids=["numpy float16", "torch float16", "torch bfloat16"],
    )
    def test_half_precision_keeps_its_type(self, normal, make, epsilon):
        q, k, v, bias = (make(normal(*shape)) for shape in [(2, 5, 8), (2, 5, 8), (2, 5, 8), (5, 5)])
        output = sa.attention(q, k, v, mask=sa.causal, bias=bias, softcap=5.0)
        assert output.dtype == q.dtype
        q, k, v, bias = (torch.as_tensor(x).double() for x in (q, k, v, bias))
        exact = sa.attention(q, k, v, mask=sa.causal, bias=bias, softcap=5.0)
        assert_allclose(torch.as_tensor(output).double(), exact, atol=8 * epsilon)


class TestTorch:
    def test_gradients_where_a_query_may_attend_nowhere(self, normal):
        mask = torch.tensor([[True, False, True], [False, False, False]])
        inputs = [
            torch.tensor(normal(*shape), requires_grad=True) for shape in [(2, 4), (3, 4), (3, 5), (2, 3)]
        ]

        def masked(q, k, v, bias):
            return sa.attention(q, k, v, mask=mask, bias=bias, softcap=3.0)

        assert torch.autograd.gradcheck(masked, inputs)
        assert torch.autograd.gradgradcheck(masked, inputs)

    def test_gradients_where_the_bias_forbids(self, normal):
        bias = torch.tensor([[0.0, -torch.inf, 0.0], [-torch.inf] * 3], dtype=torch.float64)
        inputs = [torch.tensor(normal(*shape), requires_grad=True) for shape in [(2, 4), (3, 4), (3, 5)]]
        assert torch.autograd.gradcheck(lambda q, k, v: sa.attention(q, k, v, bias=bias), inputs)

    def test_vmap_is_a_leading_axis(self, normal):
        q, k, v = (
            torch.tensor(normal(3, 2, 5, 4)),
            torch.tensor(normal(3, 2, 6, 4)),
            torch.tensor(normal(3, 2, 6, 4)),
        )
        mask = sa.causal & sa.padding(3)
        mapped = torch.func.vmap(lambda q, k, v: sa.attention(q, k, v, mask=mask))(q, k, v)
        assert_allclose(mapped, sa.attention(q, k, v, mask=mask), atol=1e-12)


def weighing(q, k, v, **options):
    """`attention` by way of the weights."""
    return sa.attention_weights(q, k, **options) @ v


EVERY = slice(None)
# where it stands, and the outputs in which it shows under a causal mask: rows, columns
WRONG = {
    "q": ((2, 0), (slice(2, 3), EVERY)),
    "k": ((2, 0), (slice(2, None), EVERY)),
    "v": ((2, 1), (slice(2, None), slice(1, 2))),
    "bias": ((3, 1), (slice(3, 4), EVERY)),
    "forbidden bias": ((3, 4), (slice(0), EVERY)),
}


class TestWhatIsNoNumber:
    @pytest.mark.parametrize("where", WRONG)
    @pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("half", [False, True])
    def test_shows_where_it_is_seen_and_nowhere_else(self, like, xp, normal, where, wrong, half):
        """In the other rows and columns the output is that of numbers which nobody may see or uses."""
        if half and xp is not torch:
            return
        q, k, v, bias = normal(2, 5, 3), normal(2, 5, 3), normal(2, 5, 2), normal(5, 5)
        arrays, (at, seen) = {"q": q, "k": k, "v": v, "bias": bias}, WRONG[where]
        kind, tolerance = ("float32", 1e-3) if half else ("float64", 1e-12)
        plain = {name: like(array, kind) for name, array in arrays.items()}
        if half:
            plain = {name: x.half() for name, x in plain.items()}
        expected = np.asarray(sa.attention(**plain, mask=sa.causal)).copy()
        if (where, wrong) == ("bias", -np.inf):  # forbidden, as by a mask
            seen = slice(0), EVERY
            forbidden = np.tri(5, dtype=bool)
            forbidden[at] = False
            expected = np.asarray(sa.attention(**plain, mask=like(forbidden, "bool"))).copy()
        expected[..., seen[0], seen[1]] = np.nan
        arrays[where.split()[-1]][(..., *at)] = wrong
        given = {name: like(array, kind) for name, array in arrays.items()}
        given = {name: x.half() for name, x in given.items()} if half else given
        found = sa.attention(**given, mask=sa.causal)
        assert found.dtype == plain["q"].dtype
        assert_allclose(found, expected, atol=tolerance)
        if where != "v":
            assert_allclose(
                np.asarray(weighing(**given | {"v": plain["v"]}, mask=sa.causal)), expected, atol=tolerance
            )

    def test_finite_numbers_are_not_searched_again(self, like, normal, monkeypatch):
        monkeypatch.setattr(sys.modules["selfattn.attention"], "showing", None)
        x = like(normal(3, 2))
        assert sa.attention(x, x, x, bias=like(np.log(np.tri(3) + 1e-9))).shape == (3, 2)


class TestWeights:
    @pytest.mark.parametrize(
        "options", [{"scale": 0.3}, {"softcap": 0.7}, {"scale": 3.0, "softcap": 2.0}], ids=str
    )
    def test_take_every_option(self, like, normal, options):
        q, k, bias = like(normal(2, 4, 3)), like(normal(2, 5, 3)), like(normal(4, 5))
        given = {"mask": sa.sliding_window(2, 1), "bias": bias} | options
        average = sa.attention(q, k, like(np.broadcast_to(np.eye(5), (2, 5, 5))), **given)
        assert_allclose(sa.attention_weights(q, k, **given), average, atol=1e-12)

    def test_a_softcap_is_positive(self, like):
        x = like(np.ones((2, 2)))
        with pytest.raises(ValueError, match=r"softcap is a positive number; got -1\.0"):
            sa.attention_weights(x, x, softcap=-1.0)

    @pytest.mark.parametrize(
        "attend", [sa.attention, lambda q, k, v, bias: sa.attention_weights(q, k, bias=bias)]
    )
    def test_nothing_is_raised_by_the_lowest_number_as_a_bias(self, normal, attend):
        x, bias = normal(3, 2).astype(np.float32), np.log(np.tri(3, dtype=np.float32) + 1e-38)
        bias[bias < -50] = np.finfo(np.float32).min
        with np.errstate(all="raise"):
            assert np.isfinite(attend(x, x, x, bias=bias)).all()
