import copy
import io
import operator
import pickle
from dataclasses import FrozenInstanceError
from functools import partial
from itertools import count, product

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
    | st.builds(sa.prefix, st.integers(0, 6))
    | st.builds(sa.documents, st.lists(st.integers(-1, 2), min_size=40, max_size=40))
    | st.builds(
        lambda cuts: sa.documents(np.searchsorted(cuts, np.arange(40))),
        st.lists(st.integers(0, 9)).map(sorted),
    )
    | st.builds(lambda n: sa.Mask(lambda i, j: (i * j) % n == 0), st.integers(1, 4))
    | st.builds(lambda n: sa.sliding_window(n, n) & sa.Mask(lambda i, j: i != j), st.integers(0, 4)),
    lambda rule: (
        st.builds(operator.and_, rule, rule)
        | st.builds(operator.or_, rule, rule)
        | st.builds(operator.invert, rule)
        | st.builds(sa.Mask.shift, rule, st.integers(0, 3))
    ),
    max_leaves=3,
)


def asked_one_by_one(allowed, q_len, kv_len):
    return [[allowed(i, j) for j in range(kv_len)] for i in range(q_len)]


@pytest.mark.parametrize(
    ("make", "allowed"),
    [
        (lambda: sa.causal, lambda i, j: j in range(i + 1)),
        (lambda: sa.sliding_window(0), lambda i, j: i == j),
        (lambda: sa.sliding_window(2), lambda i, j: i - j in (0, 1, 2)),
        (lambda: sa.sliding_window(1, 2), lambda i, j: j - i in (-1, 0, 1, 2)),
        (lambda: sa.padding(2), lambda i, j: j in (0, 1)),
        (lambda: sa.padding(0), lambda i, j: False),
        (lambda: sa.padding(99), lambda i, j: True),
        (lambda: sa.prefix(2), lambda i, j: j in (0, 1)),
        (lambda: sa.causal | sa.prefix(2), lambda i, j: j in {0, 1, *range(i + 1)}),
        (
            lambda: sa.documents([3, 3, 0, 0, 7]),
            lambda i, j: {i, j} <= {0, 1} or {i, j} <= {2, 3} or i == j == 4,
        ),
        (lambda: sa.documents([5, 2, 5, 2, 5]), lambda i, j: (i - j) % 2 == 0),
        (lambda: ~sa.padding(0), lambda i, j: True),
        (lambda: sa.Mask(lambda i, j: j % 2 == 0), lambda i, j: j in (0, 2, 4)),
        (lambda: sa.Mask(lambda i, j: i < 2), lambda i, j: i in (0, 1)),
    ],
    ids=count(),
)
@pytest.mark.parametrize(("q_len", "kv_len"), [(4, 4), (3, 5), (5, 3), (1, 1)])
def test_rules(like, xp, make, allowed, q_len, kv_len):
    dense = make().dense(q_len, kv_len, like=like([0.0]))
    assert array_namespace(dense) is array_namespace(like([0.0]))
    assert dense.dtype == xp.bool
    assert dense.shape == (q_len, kv_len)
    assert_array_equal(dense, asked_one_by_one(allowed, q_len, kv_len))


def test_without_an_example_the_mask_is_a_numpy_array():
    assert isinstance(sa.causal.dense(2, 2), np.ndarray)


def test_the_mask_is_made_where_the_example_lives():
    example = array_api_strict.empty(0, device=array_api_strict.Device("device1"))
    for mask in (sa.padding([1, 2]), sa.documents([1, 2]), sa.documents([1, 2, 1])):
        assert device((sa.causal & mask).dense(2, 2, like=example)) == device(example)


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

    @pytest.mark.usefixtures("unchecked")
    @pytest.mark.parametrize("end", [10, 2**61, 2**63 - 1, 2**63, 2**99, np.uint64(2**64 - 1)])
    def test_a_window_without_end_is_causal(self, like, end):
        dense, x = sa.causal.dense(6, 6), like([0.0])
        assert_array_equal(sa.sliding_window(end).dense(6, 6, like=x), dense)
        assert_array_equal(sa.sliding_window(0, end).dense(6, 6, like=x), dense.T)
        assert_array_equal(sa.sliding_window(end).shift(2).dense(4, 6, like=x), dense[2:])
        assert_array_equal(sa.sliding_window(end).interval(3, 9)[:2], [[0, 0, 0], [1, 2, 3]])
        assert_array_equal(sa.sliding_window(0, end).interval(3, 9)[:2], [[0, 1, 2], [9, 9, 9]])


class TestInterval:
    @given(rules, lengths, lengths)
    def test_outside_nothing_is_allowed(self, a, q_len, kv_len):
        (lo, hi, exact), j = a.interval(q_len, kv_len), np.arange(kv_len)
        inside = (lo[:, None] <= j) & (j < hi[:, None])
        dense = a.dense(q_len, kv_len)
        assert not dense[~inside].any()
        assert ((lo >= 0) & (lo <= kv_len) & (hi >= 0) & (hi <= kv_len)).all()
        assert ((lo < hi) | ((lo == kv_len) & (hi == 0))).all()
        assert_array_equal(dense[exact], inside[exact])

    @given(rules, st.integers(0, 6), st.integers(0, 6), st.integers(0, 6), st.integers(0, 6))
    def test_a_block_is_a_part_of_the_dense_mask(self, a, row, rows, column, columns):
        queries, keys = slice(row, row + rows), slice(column, column + columns)
        assert_array_equal(a.block(queries, keys), a.dense(12, 12)[queries, keys])

    @pytest.mark.parametrize(
        ("make", "lo", "hi"),
        [
            (lambda: sa.causal, [0, 0, 0], [1, 2, 3]),
            (lambda: sa.causal.shift(1), [0, 0, 0], [2, 3, 4]),
            (lambda: sa.sliding_window(1, 1), [0, 0, 1], [2, 3, 4]),
            (lambda: sa.sliding_window(1).shift(3), [2, 3, 4], [4, 4, 0]),
            (lambda: sa.padding(2), [0, 0, 0], [2, 2, 2]),
            (lambda: sa.padding(0), [4, 4, 4], [0, 0, 0]),
            (lambda: sa.documents([1, 1, 2, 2]), [0, 0, 2], [2, 2, 4]),
            (lambda: sa.documents([1, 1, 2, 2]).shift(1), [0, 2, 2], [2, 4, 4]),
            (lambda: sa.causal & sa.documents([1, 1, 2]), [0, 0, 2], [1, 2, 3]),
            (lambda: sa.causal | sa.prefix(2), [0, 0, 0], [2, 2, 3]),
            (lambda: sa.sliding_window(0) | sa.prefix(1), [0, 0, 0], [1, 2, 3]),
            (lambda: ~sa.causal, [0, 0, 0], [4, 4, 4]),
            (lambda: sa.Mask(lambda i, j: j == i), [0, 0, 0], [4, 4, 4]),
        ],
        ids=count(),
    )
    def test_is_as_narrow_as_the_rule_tells(self, make, lo, hi):
        assert_array_equal(make().interval(3, 4)[:2], [lo, hi])

    def test_a_shift_reaches_as_far_as_a_sequence_may(self):
        assert sa.causal.shift(0) is sa.causal
        for far in (2**61, -(2**61)):
            assert sa.causal.shift(far).offset == far
            with pytest.raises(ValueError, match=f"got {far + np.sign(far)}"):
                sa.causal.shift(far + int(np.sign(far)))

    @pytest.mark.parametrize(
        "mask", [sa.causal, sa.Mask(lambda i, j: j <= i), sa.documents([1] * 3)], ids=count()
    )
    def test_the_dense_mask_is_made_where_the_example_is(self, mask):
        assert mask.dense(3, 3, torch.ones(1, device="meta")).device.type == "meta"

    @pytest.mark.usefixtures("unchecked")
    @pytest.mark.parametrize("mask", [sa.causal, sa.causal.shift(1)], ids=str)
    def test_a_shift_is_an_integer(self, mask):
        with pytest.raises(TypeError, match=r"^offset is an integer; got 1\.5"):
            mask.shift(1.5)

    def test_a_predicate_may_bring_axes_of_its_own(self):
        ends = np.array([1, 3])[:, None, None, None]
        assert sa.Mask(lambda i, j: j < ends).dense(2, 4).shape == (2, 1, 2, 4)

    def test_a_rule_without_bounds_has_none_however_many_keys_there_are(self):
        assert_array_equal((~sa.causal).interval(2, 1000)[:2], [[0, 0], [1000, 1000]])

    def test_a_batch_has_intervals_of_its_own(self):
        lo, hi, _ = (sa.causal & sa.padding([1, 2]) & sa.documents([[1, 1, 1], [1, 2, 2]])).interval(3, 3)
        assert_array_equal(lo, [[[0, 0, 0]], [[0, 1, 1]]])
        assert_array_equal(hi, [[[1, 1, 1]], [[1, 2, 2]]])

    @pytest.mark.parametrize(
        ("make", "exact"),
        [
            (lambda: sa.causal & sa.sliding_window(3, 3) & sa.padding([1, 5]), True),
            (lambda: sa.documents([1, 1, 2, 2, 2, 3]).shift(1), True),
            (lambda: sa.documents([1, 1, 2, 1, 1, 2]), False),
            (lambda: (sa.causal | sa.prefix(2)) & sa.padding(4), True),
            (lambda: (sa.causal | sa.prefix(2)).shift(3), True),
            (lambda: sa.causal | sa.prefix(2) | sa.padding(3), True),
            (lambda: (sa.causal | sa.prefix(2)) & ~sa.padding(4), False),
            (lambda: sa.sliding_window(0) | sa.sliding_window(0).shift(1), True),  # they touch
            (lambda: sa.sliding_window(0) | sa.sliding_window(0).shift(2), False),
            (lambda: sa.sliding_window(0) | sa.padding(0), True),
            (lambda: sa.padding(0) | sa.sliding_window(0), True),
            (lambda: sa.sliding_window(0) | sa.prefix(1), False),
            (lambda: ~sa.causal, False),
        ],
        ids=count(),
    )
    def test_exact_when_no_key_within_is_forbidden(self, make, exact):
        assert bool(make().interval(5, 9).exact.all()) is exact

    def test_a_predicate_is_not_exact_for_a_single_query_either(self):
        assert not (~sa.causal).interval(1, 1).exact


class TestDocuments:
    @pytest.mark.parametrize("ids", [[4, 4, -9], np.array([0, 0, 255], np.uint8), torch.tensor([1, 1, 0])])
    def test_any_integers_will_do(self, like, ids):
        assert_array_equal(sa.documents(ids).dense(3, 3, like=like([0.0])), [[1, 1, 0], [1, 1, 0], [0, 0, 1]])

    def test_a_batch_of_sequences_gets_an_axis_for_the_heads(self, like):
        ids = np.random.default_rng(0).integers(0, 2, (2, 3, 5))
        for packed in (ids, np.sort(ids, axis=-1)):
            dense = sa.documents(packed).dense(4, 5, like=like([0.0]))
            assert_array_equal(dense, packed[..., None, :4, None] == packed[..., None, None, :])

    @pytest.mark.parametrize(
        ("ids", "exact"),
        [
            ([[1, 2, 1], [3, 4, 5]], False),  # as many changes as there are ids, but one comes back
            ([[1, 1, 2], [1, 2, 2]], True),
            ([[5], [6], [7]], True),
        ],
    )
    def test_each_sequence_is_packed_in_its_own_way(self, ids, exact):
        mask, ids = sa.documents(ids), np.array(ids)
        assert_array_equal(mask.dense(*[ids.shape[1]] * 2), ids[:, None, :, None] == ids[:, None, None, :])
        assert bool(mask.interval(*[ids.shape[1]] * 2).exact.all()) is exact

    def test_keys_behind_the_last_id_belong_to_no_document(self):
        for ids in ([1, 1, 2], [1, 2, 1]):
            assert not sa.documents(ids).dense(3, 5)[:, 3:].any()

    def test_attention_is_that_of_each_document_alone(self, like, normal):
        q, k, v = normal(3, 2, 5, 6)
        packed = sa.attention(*map(like, (q, k, v)), mask=sa.documents([8, 8, 8, 3, 3]))
        apart = [sa.attention(q[:, part], k[:, part], v[:, part]) for part in (slice(0, 3), slice(3, 5))]
        assert_allclose(packed, np.concatenate(apart, axis=1), atol=1e-12)

    @pytest.mark.parametrize("kind", ["int8", "uint8", "uint16", "uint32", "int64", "uint64"])
    @pytest.mark.parametrize("library", [np, torch], ids=["numpy", "torch"])
    def test_of_every_width(self, like, library, kind):
        last = np.iinfo(kind).max
        ids = library.asarray(np.array([last, last, 1, 0], kind))
        lengths = library.asarray(np.array([last, 1], kind))
        blocks, x = np.kron(np.diag([1, 0, 0]), np.ones((2, 2)))[:4, :4] + np.diag([0, 0, 1, 1]), like([0.0])
        assert_array_equal(sa.documents(ids).dense(4, 4, like=x), blocks)
        assert_array_equal(sa.documents(ids).interval(4, 4)[:2], [[0, 0, 2, 3], [2, 2, 3, 4]])
        assert_array_equal(sa.padding(lengths).dense(1, 3, like=x)[:, 0, 0, :], [[1, 1, 1], [1, 0, 0]])

    @pytest.mark.parametrize("none", [[], np.zeros(0), torch.tensor([])])
    def test_no_sequences(self, like, none):
        x = like([0.0])
        assert sa.padding(none).dense(2, 3, like=x).shape == (0, 1, 2, 3)
        assert sa.documents(np.zeros((0, 5))).dense(5, 5, like=x).shape == (0, 1, 5, 5)
        assert sa.documents(none).dense(0, 3, like=x).shape == (0, 3)


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
        (lambda: sa.sliding_window(2.5), TypeError, "left is an integer; got 2.5"),
        (lambda: sa.sliding_window(2, True), TypeError, "right is an integer; got True"),
        (lambda: sa.causal.shift(2.0), TypeError, "offset is an integer; got 2.0"),
        (lambda: sa.causal.shift(2**63), ValueError, "got 9223372036854775808"),
        (lambda: sa.causal.shift(-(2**60)).shift(-(2**61)), ValueError, "got -3458764513820540928"),
        (lambda: sa.causal.dense(2.5, 3), TypeError, "q_len is an integer; got 2.5"),
        (lambda: sa.causal.dense(2, 3.0), TypeError, "kv_len is an integer; got 3.0"),
        (lambda: sa.documents([True, False]), TypeError, "^ids are integers; got bool$"),
        (lambda: sa.documents(torch.tensor([1.0])), TypeError, "^ids are integers; got float32$"),
        (lambda: sa.padding([1.0, 2.0]), TypeError, "^lengths are integers; got float64$"),
        (lambda: sa.padding(True), TypeError, "bool"),
        (lambda: sa.padding([3, -1]), ValueError, "got -1"),
        (lambda: sa.prefix(-1), ValueError, "lengths are 0 or more; got -1"),
        (lambda: sa.documents([1.0]), TypeError, "^ids are integers; got float64$"),
        (lambda: sa.documents(3), ValueError, "got the number 3"),
        (
            lambda: sa.documents([1, 1, 2]).dense(4, 4),
            ValueError,
            "ids for 3 positions; got queries from 0 to 3",
        ),
        (
            lambda: sa.documents([1, 2, 1]).shift(1).dense(3, 3),
            ValueError,
            "3 positions; got queries from 1 to 3",
        ),
        (
            lambda: sa.documents([1, 2]).shift(-1).interval(1, 2),
            ValueError,
            "2 positions; got queries from -1",
        ),
        (lambda: sa.Mask(lambda i, j: j - i).dense(2, 2), TypeError, r"returned numpy int64 \(2, 2\)"),
        (lambda: sa.Mask(lambda i, j: True).dense(2, 2), TypeError, "returned builtins bool"),
        (
            lambda: sa.Mask(lambda i, j: j - i).dense(2, 2, like=torch.ones(1)),
            TypeError,
            "i torch .* returned torch int64",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_mask_is_refused(make, error, seen):
    with pytest.raises(error, match=seen):
        make()


def test_a_rule_that_answers_in_another_library_is_refused(like, xp):
    answer = (np if xp is torch else torch).ones((2, 2)) > 0
    with pytest.raises(
        TypeError, match=r"its indices' library; got i \w+ int64 \(2, 1\), returned \w+ bool \(2, 2\)"
    ):
        sa.Mask(lambda i, j: answer).dense(2, 2, like=like([0.0]))


def same_parity(i, j):
    return (i - j) % 2 == 0


WRITTEN = {  # as it was written
    "causal": sa.causal,
    "sliding_window(3)": sa.sliding_window(3),
    "sliding_window(3, 1)": sa.sliding_window(3, 1),
    "padding(3)": sa.padding(3),
    "padding([3, 5])": sa.padding(np.array([3, 5], np.uint8)),
    "prefix(2)": sa.prefix(2),
    "documents([[0, 0], [0, 1]])": sa.documents([[0, 0], [0, 1]]),
    "Mask(same_parity)": sa.Mask(same_parity),
    "causal & ~sliding_window(3)": sa.causal & ~sa.sliding_window(3),
    "causal | prefix(2) & padding(3)": sa.causal | sa.prefix(2) & sa.padding(3),
    "(causal | prefix(2)) & padding(3)": (sa.causal | sa.prefix(2)) & sa.padding(3),
    "causal & (prefix(2) & padding(3))": sa.causal & (sa.prefix(2) & sa.padding(3)),
    "causal & prefix(2) & padding(3)": sa.causal & sa.prefix(2) & sa.padding(3),
    "causal | (prefix(2) | padding(3))": sa.causal | (sa.prefix(2) | sa.padding(3)),
    "~(causal & prefix(2))": ~(sa.causal & sa.prefix(2)),
    "~~causal": ~~sa.causal,
    "causal.shift(5)": sa.causal.shift(2).shift(3),
    "(causal & prefix(2)).shift(-1)": (sa.causal & sa.prefix(2)).shift(-1),
    "~causal.shift(1)": ~sa.causal.shift(1),
    "(~causal).shift(1)": (~sa.causal).shift(1),
}


class TestData:
    @pytest.mark.parametrize("written", WRITTEN)
    def test_prints_as_it_was_written(self, written):
        assert repr(WRITTEN[written]) == written
        assert eval(written, vars(sa) | {"same_parity": same_parity}) == WRITTEN[written]

    def test_what_needs_no_parentheses_has_none(self):
        assert repr(sa.causal | sa.prefix(1) | sa.prefix(2)) == "causal | prefix(1) | prefix(2)"
        assert repr(sa.causal & sa.prefix(1) & sa.prefix(2)) == "causal & prefix(1) & prefix(2)"

    def test_a_predicate_without_a_name_prints_itself(self):
        predicate = partial(same_parity)
        assert repr(sa.Mask(predicate)) == f"Mask({predicate})"

    def test_unequal_masks_have_unequal_hashes(self):
        assert len({hash(mask) for mask in WRITTEN.values()}) == len(WRITTEN)
        assert hash(sa.padding(1)) != hash(sa.prefix(1))

    def test_long_arrays_are_cut_short(self):
        assert repr(sa.documents(np.arange(99))) == "documents([0, 1, 2, ..., 96, 97, 98])"

    def test_two_are_equal_when_their_fields_are(self):
        for a, b in product(WRITTEN.values(), repeat=2):
            assert (a == b) is (a is b)
            assert a is not b or hash(a) == hash(b)
        assert sa.padding([1, 2]) == sa.padding(torch.tensor([1, 2])) != sa.padding([2, 1])
        assert hash(sa.padding([1, 2])) == hash(sa.padding(np.array([1, 2], np.int8)))
        assert sa.padding([1]) != sa.padding(1)
        assert sa.padding(1) != sa.prefix(1)
        assert sa.causal != "causal"
        assert sa.sliding_window(1, 2) != sa.sliding_window(2, 1)
        assert sa.Mask(same_parity) != sa.Mask(lambda i, j: i == j)

    @pytest.mark.parametrize("written", WRITTEN)
    def test_copies_are_equal(self, written):
        mask = WRITTEN[written]
        for again in (pickle.loads(pickle.dumps(mask)), copy.copy(mask), copy.deepcopy(mask)):
            assert again == mask
            if "[[" not in written:
                assert_array_equal(again.dense(4, 4), mask.dense(4, 4))

    def test_a_module_that_holds_one_is_saved(self):
        module, file = torch.nn.Linear(1, 1), io.BytesIO()
        module.mask = sa.causal & sa.padding([3, 5]) | sa.Mask(same_parity)
        torch.save(module, file)
        file.seek(0)
        assert torch.load(file, weights_only=False).mask == module.mask

    def test_a_predicate_that_cannot_be_pickled_says_so(self):
        with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
            pickle.dumps(sa.causal & sa.Mask(lambda i, j: i == j))

    def test_no_field_can_be_set(self):
        for mask in (sa.causal, sa.sliding_window(3), sa.Mask(same_parity), sa.causal & sa.prefix(2)):
            for name in ("left", "predicate", "first", "other"):
                with pytest.raises(FrozenInstanceError, match=name):
                    setattr(mask, name, 4)

    def test_the_numbers_are_a_copy(self):
        lengths, ids = np.array([1, 2]), np.array([0, 0, 1])
        padding, documents = sa.padding(lengths), sa.documents(ids)
        lengths[:], ids[:] = 9, 9
        assert (padding, documents) == (sa.padding([1, 2]), sa.documents([0, 0, 1]))

    def test_what_is_no_mask_does_not_compose(self):
        for other in (np.ones((2, 2), bool), True, None):
            with pytest.raises(TypeError, match="unsupported operand"):
                sa.causal & other
            with pytest.raises(TypeError, match="unsupported operand"):
                sa.causal | other

    def test_leading_axes_are_those_of_the_dense_mask(self):
        for mask in (*WRITTEN.values(), sa.padding([[1, 2]]) | sa.causal.shift(1), ~sa.padding([1]).shift(2)):
            assert (*mask.leading, 2, 2) == mask.dense(2, 2).shape
        mixed = sa.padding([[1], [2]]) & sa.padding([1, 2, 3])
        assert mixed.leading == (2, 3, 1)
        assert mixed.dense(4, 5).shape == (2, 3, 1, 4, 5)
