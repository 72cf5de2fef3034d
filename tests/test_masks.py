import operator
from functools import partial

import array_api_strict
import numpy as np
import pytest
import torch
from array_api_compat import array_namespace, device
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import selfattn as sa

assert_allclose = partial(np.testing.assert_allclose, rtol=0)  # its own default, 1e-7, would be added

lengths = st.integers(0, 6)
rules = st.recursive(
    st.just(sa.causal)
    | st.builds(sa.sliding_window, st.integers(0, 3), st.integers(0, 3))
    | st.builds(sa.padding, st.integers(0, 6))
    | st.builds(lambda n: sa.Mask(lambda i, j: (i * j) % n == 0), st.integers(1, 4)),
    lambda rule: st.builds(operator.and_, rule, rule) | st.builds(sa.Mask.shift, rule, st.integers(0, 3)),
    max_leaves=3,
)


def asked_one_by_one(allowed, q_len, kv_len):
    return [[allowed(i, j) for j in range(kv_len)] for i in range(q_len)]


@pytest.mark.parametrize(
    ("mask", "allowed"),
    [
        (sa.causal, lambda i, j: j in range(i + 1)),
        (sa.sliding_window(0), lambda i, j: i == j),
        (sa.sliding_window(2), lambda i, j: i - j in (0, 1, 2)),
        (sa.sliding_window(1, 2), lambda i, j: j - i in (-1, 0, 1, 2)),
        (sa.padding(2), lambda i, j: j in (0, 1)),
        (sa.padding(0), lambda i, j: False),
        (sa.padding(99), lambda i, j: True),
        (sa.Mask(lambda i, j: j % 2 == 0), lambda i, j: j in (0, 2, 4)),
        (sa.Mask(lambda i, j: i < 2), lambda i, j: i in (0, 1)),
    ],
)
@pytest.mark.parametrize(("q_len", "kv_len"), [(4, 4), (3, 5), (5, 3), (1, 1)])
def test_rules(like, xp, mask, allowed, q_len, kv_len):
    dense = mask.dense(q_len, kv_len, like=like([0.0]))
    assert array_namespace(dense) is array_namespace(like([0.0]))
    assert dense.dtype == xp.bool
    assert dense.shape == (q_len, kv_len)
    assert_array_equal(dense, asked_one_by_one(allowed, q_len, kv_len))


def test_without_an_example_the_mask_is_a_numpy_array():
    assert isinstance(sa.causal.dense(2, 2), np.ndarray)


def test_the_mask_is_made_where_the_example_lives():
    example = array_api_strict.empty(0, device=array_api_strict.Device("device1"))
    assert device((sa.causal & sa.padding([1, 2])).dense(2, 2, like=example)) == device(example)


class TestAlgebra:
    @given(rules, rules, lengths, lengths)
    def test_and_or_not_are_those_of_the_dense_masks(self, a, b, q_len, kv_len):
        dense_a, dense_b = a.dense(q_len, kv_len), b.dense(q_len, kv_len)
        assert_array_equal((a & b).dense(q_len, kv_len), dense_a & dense_b)
        assert_array_equal((a | b).dense(q_len, kv_len), dense_a | dense_b)
        assert_array_equal((~a).dense(q_len, kv_len), ~dense_a)

    @given(rules, rules, lengths, lengths)
    def test_de_morgan(self, like, a, b, q_len, kv_len):
        of = (q_len, kv_len, like([0.0]))
        assert_array_equal((~(a & b)).dense(*of), (~a | ~b).dense(*of))
        assert_array_equal((~(a | b)).dense(*of), (~a & ~b).dense(*of))

    @given(rules, lengths, lengths, lengths)
    def test_shift_drops_the_first_queries(self, a, q_len, kv_len, offset):
        assert_array_equal(a.shift(offset).dense(q_len, kv_len), a.dense(offset + q_len, kv_len)[offset:])

    @given(rules, lengths, st.integers(0, 3), st.integers(0, 3))
    def test_shifts_add_up(self, a, n, first, second):
        assert_array_equal(a.shift(first).shift(second).dense(n, n), a.shift(first + second).dense(n, n))

    def test_a_window_without_end_is_causal(self):
        assert_array_equal(sa.sliding_window(10).dense(6, 6), sa.causal.dense(6, 6))


class TestPadding:
    def test_a_batch_of_lengths_gets_an_axis_for_the_heads(self, like):
        lengths = np.array([[0, 1, 2], [3, 4, 9]])
        dense = sa.padding(lengths).dense(2, 4, like=like([0.0]))
        assert dense.shape == (2, 3, 1, 2, 4)
        counted = np.asarray(dense).sum(-1)[..., 0, 0]
        assert_array_equal(counted, [[0, 1, 2], [3, 4, 4]])

    @pytest.mark.parametrize(
        "lengths", [[2, 0, 3], (2, 0, 3), np.array([2, 0, 3], np.uint8), torch.tensor([2, 0, 3])]
    )
    def test_any_integers_will_do(self, lengths):
        dense = sa.padding(lengths).dense(1, 3)[:, 0, 0]
        assert_array_equal(dense, [[1, 1, 0], [0, 0, 0], [1, 1, 1]])

    def test_attention_sees_only_the_real_keys(self, like, normal):
        q, k, v = normal(3, 2, 4, 5, 6)  # batch of 2, 4 heads
        padded = sa.attention(*map(like, (q, k, v)), mask=sa.causal & sa.padding([5, 2]))
        assert_allclose(
            padded[0, ...], sa.attention(*map(like, (q[0], k[0], v[0])), mask=sa.causal), atol=1e-12
        )
        short = map(like, (q[1], k[1, :, :2], v[1, :, :2]))
        assert_allclose(padded[1, ...], sa.attention(*short, mask=sa.causal), atol=1e-12)


@pytest.mark.parametrize(
    ("make", "error", "seen"),
    [
        (lambda: sa.sliding_window(-1), ValueError, "left=-1, right=0"),
        (lambda: sa.sliding_window(1, -2), ValueError, "left=1, right=-2"),
        (lambda: sa.padding([1.0, 2.0]), TypeError, "float64"),
        (lambda: sa.padding(True), TypeError, "bool"),
        (lambda: sa.padding([3, -1]), ValueError, "got -1"),
        (lambda: sa.Mask(lambda i, j: j - i).dense(2, 2), TypeError, r"returned numpy int64 \(2, 2\)"),
        (lambda: sa.Mask(lambda i, j: True).dense(2, 2), TypeError, "returned builtins bool"),
        (
            lambda: sa.Mask(lambda i, j: j - i).dense(2, 2, like=torch.ones(1)),
            TypeError,
            "i torch .* returned torch int64",
        ),
    ],
)
def test_what_is_no_mask_is_refused(make, error, seen):
    with pytest.raises(error, match=seen):
        make()


def test_a_rule_that_answers_in_another_library_is_refused(like, xp):
    answer = (np if xp is torch else torch).ones((2, 2)) > 0
    with pytest.raises(
        TypeError, match=r"its indices' library; got i \w+ int64 \(2, 1\), returned \w+ bool \(2, 2\)"
    ):
        sa.Mask(lambda i, j: answer).dense(2, 2, like=like([0.0]))
