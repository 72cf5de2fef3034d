import operator
import tracemalloc
import warnings
from functools import partial
from itertools import product

import array_api_strict
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

import selfattn as sa
from selfattn.flash import blocks, plan
from selfattn.flash import torch as kernel
from selfattn.softmax import summarize

LENGTHS = st.integers(0, 14)


SIZES = {plan: ("QUERIES", "SPAN", "SCORES", "TILE", "GROUP"), blocks: ("QUERIES", "SCORES")}
LARGE = {name: getattr(plan, name) for name in SIZES[plan]}
SMALL = {"QUERIES": 2, "SPAN": 16, "SCORES": 24, "TILE": 9, "GROUP": 400}


def resize(patch, sizes):
    for module, names in SIZES.items():
        for name in names:
            patch.setattr(module, name, sizes[name])


@pytest.fixture(autouse=True, scope="module")
def small_tiles():
    """Tiles so small that a dozen queries make several of every shape."""
    with pytest.MonkeyPatch.context() as patch:
        resize(patch, SMALL)
        yield


@pytest.fixture
def tiles_as_they_are(monkeypatch):
    """Undo `small_tiles`."""
    resize(monkeypatch, LARGE)


def rules(batch):
    """Masks of every kind; some with an axis for the batch."""
    per_sequence = [(), (batch,)] if batch else [()]
    ids = st.sampled_from(per_sequence).flatmap(
        lambda shape: st.lists(st.integers(0, 9), max_size=3).map(
            lambda cuts: np.broadcast_to(np.searchsorted(sorted(cuts), np.arange(24)), (*shape, 24))
        )
    )
    scattered = st.integers(0, 99).map(lambda seed: np.random.default_rng(seed).integers(0, 3, 24))
    counts = st.sampled_from(per_sequence).flatmap(
        lambda shape: st.integers(0, 99).map(lambda seed: np.random.default_rng(seed).integers(0, 14, shape))
    )
    return st.recursive(
        st.just(sa.causal)
        | st.builds(sa.sliding_window, st.integers(0, 6), st.integers(0, 3))
        | counts.map(sa.padding)
        | counts.map(sa.prefix)
        | (ids | scattered).map(sa.documents)
        | st.builds(lambda n: sa.Mask(lambda i, j: (i + j) % n == 0), st.integers(2, 3)),
        lambda rule: (
            st.builds(operator.and_, rule, rule)
            | st.builds(operator.or_, rule, rule)
            | st.builds(operator.invert, rule)
            | st.builds(sa.Mask.shift, rule, st.integers(0, 3))
        ),
        max_leaves=3,
    )


@st.composite
def problems(draw):
    """Arguments of attention, of all shapes that it takes."""
    q_len, kv_len, d_k, d_v = draw(LENGTHS), draw(LENGTHS), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    groups, kv_heads, batch = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(0, 2))
    batch_axes = (batch,) if batch else ()
    heads = (groups * kv_heads,) if batch or draw(st.booleans()) else ()
    q_axes, kv_axes = (*batch_axes, *heads), (*batch_axes, kv_heads) if heads else ()
    scores = (*q_axes, q_len, kv_len)

    def broadcast():
        """A shape that broadcasts to the scores."""
        shape = tuple(1 if draw(st.booleans()) else size for size in scores)
        return shape[draw(st.integers(0, len(shape))) :]

    rng = np.random.default_rng(draw(st.integers(0, 99)))
    options = {"scale": draw(st.none() | st.floats(0.1, 2)), "softcap": draw(st.none() | st.floats(0.5, 5))}
    if draw(st.booleans()):
        options["bias"] = rng.standard_normal(broadcast())
        options["bias"] = np.where(rng.random(options["bias"].shape) < 0.1, -np.inf, options["bias"])
    if draw(st.booleans()):
        options["mask"] = draw(rules(batch))
    elif draw(st.booleans()):
        options["mask"] = rng.random(broadcast()) < draw(st.sampled_from([0.1, 0.5, 0.9]))
    shapes = (*q_axes, q_len, d_k), (*kv_axes, kv_len, d_k), (*kv_axes, kv_len, d_v)
    return [rng.standard_normal(shape) for shape in shapes], options


def made(options, like, dtype):
    """The options with arrays of another library and type."""
    kinds = {"mask": "bool", "bias": dtype}
    return {
        name: like(option, kinds[name]) if isinstance(option, np.ndarray | np.bool) else option
        for name, option in options.items()
    }


class TestSameAsAttention:
    @pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-6)])
    @given(problems(), st.sampled_from([-1, blocks.SMALL]))
    def test_values(self, like, xp, dtype, tolerance, problem, small):
        arrays, options = problem
        arrays, options = [like(x, dtype) for x in arrays], made(options, like, dtype)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(blocks, "SMALL", small)
            output, expected = sa.flash_attention(*arrays, **options), sa.attention(*arrays, **options)
        assert type(output) is type(expected)
        assert output.dtype == expected.dtype == getattr(xp, dtype)
        assert_allclose(output, expected, atol=tolerance, rtol=tolerance)

    @given(problems())
    def test_gradients(self, problem):
        arrays, options = problem
        arrays = [torch.tensor(x, requires_grad=True) for x in arrays]
        options = made(options, lambda x, _: torch.tensor(x), "")
        if "bias" in options:
            arrays.append(options["bias"].requires_grad_())
        outputs = [function(*arrays[:3], **options) for function in (sa.flash_attention, sa.attention)]
        cotangent = torch.tensor(np.random.default_rng(0).standard_normal(outputs[0].shape))
        ours, theirs = (torch.autograd.grad(output, arrays, cotangent) for output in outputs)
        for one, other in zip(ours, theirs, strict=True):
            assert one.shape == other.shape
            assert_allclose(one, other, atol=1e-12, rtol=1e-12)

    def test_gradients_are_those_of_finite_differences(self, normal):
        mask = (
            sa.causal & sa.documents([0] * 3 + [1] * 5) & ~sa.sliding_window(0)
        )  # queries 0 and 3 see nothing
        shapes = (2, 8, 3), (1, 8, 3), (1, 8, 2), (8, 8)
        arrays = [torch.tensor(normal(*shape), requires_grad=True) for shape in shapes]

        def masked(q, k, v, bias):
            return sa.flash_attention(q, k, v, mask=mask, bias=bias, softcap=2.0)

        assert torch.autograd.gradcheck(masked, arrays)

    @pytest.mark.parametrize("wanted", range(4))
    def test_only_the_gradients_that_are_asked_for(self, normal, wanted):
        arrays = [torch.tensor(normal(4, 9, 3)) for _ in range(3)] + [torch.tensor(normal(9, 9))]
        arrays[wanted].requires_grad_()
        sa.flash_attention(*arrays[:3], bias=arrays[3], mask=sa.causal).sum().backward()
        assert [x.grad is not None for x in arrays] == [i == wanted for i in range(4)]

    def test_heads_may_lie_in_any_order_in_memory(self, normal):
        arrays = [torch.tensor(normal(2, 9, 4, 3)).mT.movedim(-1, 1).mT for _ in range(3)]  # from split_heads
        for mask in (None, sa.causal, sa.sliding_window(3), sa.padding([4, 7])):
            expected = sa.attention(*arrays, mask=mask)
            assert_allclose(sa.flash_attention(*arrays, mask=mask), expected, atol=1e-12)

    @pytest.mark.parametrize("many", range(3))
    def test_one_of_the_three_may_be_a_batch_for_the_others(self, like, normal, many):
        q, k, v = (like(normal(3 if i == many else 1, 2, 9, 4)) for i in range(3))
        masks = [None] if many == 2 else [sa.padding([4, 9, 0]), like(normal(3, 1, 9, 9) > 0, "bool")]
        for mask in masks:
            expected = sa.attention(q, k, v, mask=mask)
            assert_allclose(sa.flash_attention(q, k, v, mask=mask), expected, atol=1e-12)

    @pytest.mark.parametrize("axes", [(), (3,), (2, 3)], ids=["neither", "heads", "batch and heads"])
    def test_every_head_of_every_sequence_has_a_bias_and_a_mask(self, like, normal, axes):
        q, k, v = (like(normal(2, 3, 9, 4)[(0,) * (2 - len(axes))]) for _ in range(3))
        bias, mask = like(normal(*axes, 9, 9)), like(normal(*axes, 9, 9) > 0, "bool")
        for options in ({"bias": bias}, {"mask": mask}, {"bias": bias, "mask": mask}):
            expected = sa.attention(q, k, v, **options)
            assert_allclose(sa.flash_attention(q, k, v, **options), expected, atol=1e-12)

    @pytest.mark.parametrize(
        ("make", "epsilon"),
        [
            (lambda x: x.astype(np.float16), 2**-10),
            (lambda x: torch.tensor(x, dtype=torch.float16), 2**-10),
            (lambda x: torch.tensor(x, dtype=torch.bfloat16), 2**-7),
        ],
        ids=["numpy float16", "torch float16", "torch bfloat16"],
    )
    @pytest.mark.parametrize(
        "options", [{}, {"softcap": 5.0}, {"bias": np.linspace(-1, 1, 81).reshape(9, 9)}]
    )
    def test_half_precision_keeps_its_type(self, normal, make, epsilon, options):
        q, k, v = (make(normal(2, 9, 8)) for _ in range(3))
        options = {name: make(x) if name == "bias" else x for name, x in options.items()}
        output = sa.flash_attention(q, k, v, mask=sa.causal, **options)
        assert output.dtype == q.dtype
        q, k, v = (torch.as_tensor(x).double() for x in (q, k, v))
        options = {name: torch.as_tensor(x).double() for name, x in options.items()}
        exact = sa.attention(
            q, k, v, mask=sa.causal, **options | ({"softcap": 5.0} if "softcap" in options else {})
        )
        assert_allclose(torch.as_tensor(output).double(), exact, atol=4 * epsilon)

    @pytest.mark.parametrize("mask", [None, sa.sliding_window(3), sa.documents(np.arange(9) % 2)])
    def test_the_output_is_made_where_the_queries_are(self, normal, mask):
        elsewhere = array_api_strict.Device("device1")
        q, k, v = (array_api_strict.asarray(normal(9, 4), device=elsewhere) for _ in range(3))
        output = sa.flash_attention(q, k, v, mask=mask)
        assert output.device == elsewhere
        host = array_api_strict.Device("CPU_DEVICE")
        expected = sa.attention(q, k, v, mask=mask)
        assert_allclose(output.to_device(host), expected.to_device(host), atol=1e-12)

    @pytest.mark.parametrize(("q_len", "kv_len"), [(0, 0), (0, 3), (3, 0)])
    def test_no_queries_or_no_keys(self, like, q_len, kv_len):
        q, k, v = like(np.ones((2, q_len, 4))), like(np.ones((2, kv_len, 4))), like(np.ones((2, kv_len, 5)))
        ids = sa.documents(np.zeros(q_len, int))  # as many as there are queries, none too
        for mask in (None, sa.causal, sa.padding(2), ids, like(np.ones((q_len, kv_len)), "bool")):
            assert_array_equal(sa.flash_attention(q, k, v, mask=mask), np.zeros((2, q_len, 5)))

    def test_the_lowest_number_as_a_bias_is_not_forbidden(self, like, normal):
        q, k, v = (like(normal(6, 3), "float32") for _ in range(3))
        bias = like(np.where(np.eye(6), 0, np.finfo(np.float32).min) * (np.arange(6) > 2)[:, None], "float32")
        expected = sa.attention(q, k, v, bias=bias)
        assert_allclose(sa.flash_attention(q, k, v, bias=bias), expected, atol=2e-6)

    def test_huge_scores_choose_the_largest(self):
        q, k = np.array([[1e154]]), np.array([[1e154], [-1e154], [0.0]])
        assert_array_equal(sa.flash_attention(q, k, k), [[1e154]])
        assert_allclose(sa.flash_attention(q, k, k, mask=~sa.causal), [[0]])

    def test_a_bias_forbids_a_score_that_overflowed_too(self):
        q, k = np.array([[1e200]]), np.array([[1e200], [1.0]])
        with np.errstate(over="ignore"):
            assert_array_equal(sa.flash_attention(q, k, k, bias=np.array([[-np.inf, 0.0]])), [[1]])


class TestSmallScores:
    """Where no score can be far from zero, no maximum is looked for."""

    @pytest.mark.parametrize("library", [np.asarray, torch.tensor])
    @pytest.mark.parametrize(("scale", "small"), [(1.0, True), (1.01, False), (-1.01, False)])
    def test_the_longest_query_and_key_decide(self, library, scale, small):
        q, k = library([[[0.0, 1.0], [3.0, 4.0]], [[1.0, 1.0], [0.0, 0.0]]]), library([[1.0, 0], [0, -4.0]])
        assert blocks.small_scores(q, k, k, scale) is small

    @pytest.mark.parametrize("like", [np.asarray, torch.tensor])
    def test_a_bias_may_be_far_from_zero(self, like, normal):
        q, k, v, bias = like(normal(3, 4)), like(normal(6, 4)), like(normal(6, 4)), like(900 * normal(3, 6))
        expected = sa.attention(q, k, v, bias=bias, softcap=5.0)
        assert_allclose(sa.flash_attention(q, k, v, bias=bias, softcap=5.0), expected, atol=1e-12)

    def test_a_key_of_another_head_does_not(self):
        q, k = np.array([[[1.0]], [[9.0]]]), np.array([[[9.0]], [[1.0]]])
        assert blocks.small_scores(q, k, k, 1.0)

    @pytest.mark.parametrize("value", [1e20, np.inf, np.nan])
    def test_values_whose_sums_might_overflow_need_a_maximum(self, value):
        q, v = np.ones((1, 1), np.float32), np.array([[value]], np.float32)
        assert not blocks.small_scores(q, q, v, 1.0)

    @pytest.mark.parametrize("score", [-20.0, 20.0])
    @pytest.mark.parametrize("value", [1e19, 1e-28])
    def test_at_the_limit_values_of_every_size_are_in_range(self, score, value):
        q, k = np.array([[score]], np.float32), np.ones((5000, 1), np.float32)
        v = np.full((5000, 1), value, np.float32)
        assert blocks.small_scores(q, k, v, 1.0)
        assert_allclose(sa.flash_attention(q, k, v, scale=1.0), [[value]], rtol=1e-5)

    @pytest.mark.parametrize(("one", "other"), [(1e200, 1e-200), (np.inf, 0.0), (np.nan, 1.0)])
    def test_what_overflows_is_not_small_and_does_not_warn(self, one, other):
        q, k = np.array([[one]]), np.array([[other]])
        assert not blocks.small_scores(q, k, k, 1.0)
        assert not blocks.small_scores(k, q, k, 1.0)

    @pytest.mark.parametrize(("length", "small"), [(1, {True}), (99, {False})])
    def test_then_no_pass_looks_for_the_maximum(self, normal, monkeypatch, length, small):
        known = set()

        def watched(scores, v, small):
            known.add(small)
            return summarize(scores, v, small)

        monkeypatch.setattr(blocks, "summarize", watched)
        q, k, v = normal(3, 9, 4)
        expected = sa.attention(length * q, k, v, mask=sa.causal)
        assert_allclose(sa.flash_attention(length * q, k, v, mask=sa.causal), expected, atol=1e-12)
        assert known == small


class TestWhatIsNeverComputed:
    @pytest.mark.parametrize("library", [np.asarray, torch.tensor])
    @pytest.mark.parametrize(
        ("mask", "forbidden"),
        [
            (sa.causal, slice(40, 50)),
            (sa.causal.shift(5), slice(45, 50)),
            (sa.sliding_window(3).shift(9), slice(0, 6)),
            (sa.padding(7), slice(7, 50)),
            (sa.padding([4, 7, 5]), slice(7, 50)),
            (sa.causal & sa.padding(7), slice(7, 50)),
            (sa.documents(np.arange(50) // 13).shift(10), slice(0, 0)),
            (sa.documents(np.arange(50) // 10).shift(10), slice(0, 10)),
            (sa.causal | sa.prefix(45), slice(45, 50)),
            (sa.causal & sa.Mask(lambda i, j: (i + j) % 2 == 0), slice(40, 50)),
        ],
    )
    @pytest.mark.parametrize("options", [{}, {"softcap": 3.0}], ids=["kernel", "own"])
    def test_keys_outside_every_interval_may_be_anything(self, normal, library, mask, forbidden, options):
        q, k, v = normal(3, 2, 40, 4), normal(3, 2, 50, 4), normal(3, 2, 50, 4)
        expected = sa.attention(q, k, v, mask=mask, **options)
        k[..., forbidden, :] = v[..., forbidden, :] = np.nan
        output = sa.flash_attention(*map(library, (q, k, v)), mask=mask, **options)
        assert_allclose(output, expected, atol=1e-12)

    @pytest.mark.usefixtures("tiles_as_they_are")
    @pytest.mark.parametrize(
        ("mask", "parts"),
        [
            (sa.sliding_window(318).shift(318), [(0, 382, True)]),
            (sa.sliding_window(319).shift(319), [(0, 63, True), (63, 320, False), (320, 383, True)]),
            (
                sa.sliding_window(9000).shift(9000),
                [(0, 63, True), (63, 8255, False), (8255, 9001, False), (9001, 9064, True)],
            ),
        ],
    )
    def test_many_keys_that_all_queries_see_are_not_compared_with_their_bounds(
        self, normal, monkeypatch, mask, parts
    ):
        compared = []
        allowed = plan.Tile.allowed

        def watched(tile, keys, like):
            seen = allowed(tile, keys, like)
            compared.append((keys.start, keys.stop, seen is not None))
            return seen

        monkeypatch.setattr(plan.Tile, "allowed", watched)
        q, k = normal(64, 2), normal(9400, 2)
        sa.flash_attention(q, k, k, mask=mask)
        assert compared == parts

    def test_a_key_that_is_not_a_number_reaches_only_the_tiles_that_see_it(self, normal):
        q, k, v = normal(3, 60, 4)
        k[20] = np.nan
        for library in (np.asarray, torch.tensor):
            output = sa.flash_attention(*map(library, (q, k, v)), mask=sa.sliding_window(5))
            touched = np.isnan(np.asarray(output)).any(-1)
            assert touched[20:26].all()
            assert not touched[:18].any()
            assert not touched[28:].any()

    @pytest.mark.parametrize("library", [np.asarray, torch.tensor])
    def test_a_rule_is_asked_of_no_pair_outside(self, normal, library):
        asked = []

        def even(i, j):
            asked.append(np.broadcast_arrays(i, j))
            return (i + j) % 2 == 0

        arrays = [library(x) for x in normal(3, 2, 60, 4)]
        sa.flash_attention(*arrays, mask=sa.sliding_window(5) & sa.Mask(even))
        i, j = (np.concatenate([x.reshape(-1) for x in of]) for of in zip(*asked, strict=True))
        assert ((i - 6 <= j) & (j <= i + 1)).all()  # a tile has two queries
        assert len(i) <= 60 * 7

    @pytest.mark.parametrize("library", [np, torch], ids=["numpy", "torch"])
    def test_a_rule_may_speak_its_arrays_language(self, normal, library):
        q, k, v = (library.asarray(x) for x in normal(3, 9, 4))
        near = sa.Mask(lambda i, j: library.where(i > j, i - j, j - i) < 3)
        expected = sa.attention(q, k, v, mask=near)
        assert_allclose(sa.flash_attention(q, k, v, mask=near), expected, atol=1e-12)

    def test_exact_rules_are_not_asked(self, normal, monkeypatch):
        monkeypatch.setattr(sa.Mask, "block", None)
        mask = (sa.causal | sa.prefix(3)) & sa.padding(30) & sa.documents(np.arange(60) // 20)
        monkeypatch.setattr(sa.Mask, "dense", lambda *_, like: np.zeros((0, 0), bool))
        sa.flash_attention(*normal(3, 2, 60, 4), mask=mask)

    @pytest.mark.parametrize(
        ("mask", "causal", "mask_is_made"),
        [
            (None, [False], False),
            (sa.causal, [True], False),
            (sa.padding([20, 60]), [False, False], False),
            (sa.causal & sa.documents(np.arange(60) // 30), [True, True], False),
            (sa.sliding_window(9), [True] + [False] * 25, True),
        ],
        ids=["all", "causal", "padding", "documents", "window"],
    )
    def test_calls_of_torchs_kernel(self, normal, monkeypatch, mask, causal, mask_is_made):
        calls = []

        def spy(*args, **options):
            calls.append((options["is_causal"], options["attn_mask"] is not None))
            return scaled_dot_product_attention(*args, **options)

        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
        sa.flash_attention(*(torch.tensor(normal(2, 4, 60, 4)) for _ in range(3)), mask=mask)
        assert [call[0] for call in calls] == causal
        assert any(call[1] for call in calls) is mask_is_made

    @pytest.mark.parametrize(("d_k", "d_v"), [(3, 5), (5, 3)])
    def test_torchs_kernel_gets_a_single_width(self, normal, monkeypatch, d_k, d_v):
        widths = set()

        def spy(*arrays, **options):
            widths.update(x.shape[-1] for x in arrays)
            return scaled_dot_product_attention(*arrays, **options)

        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
        q, k, v = (torch.tensor(normal(2, 9, d)) for d in (d_k, d_k, d_v))
        sa.flash_attention(q, k, v, mask=sa.sliding_window(3))
        assert widths == {5}

    def test_numpy_arrays_never_meet_torch(self, normal, monkeypatch):
        monkeypatch.setattr(kernel, "put_together", None)
        for mask in (sa.causal, sa.sliding_window(3)):
            assert sa.flash_attention(*normal(3, 60, 4), mask=mask).shape == (60, 4)


SEEN = {  # rules for nine queries and keys, of which some see only a part
    "all": None,
    "causal": sa.causal,
    "window": sa.sliding_window(2),
    "padding": sa.padding([3, 8]),
    "documents": sa.documents([0, 0, 0, 1, 1, 1, 1, 2, 2]),
    "documents in pieces": sa.documents([0, 1, 0, 1, 2, 2, 0, 1, 1]),
    "not": ~sa.sliding_window(1),
    "predicate": sa.causal & sa.Mask(lambda i, j: (i + j) % 2 == 0),
    "array of each head": np.random.default_rng(1).random((2, 2, 9, 9)) < 0.5,
    "nothing": sa.padding(0),
}


def dense(mask):
    """Who sees whom, ``(2, 2, 9, 9)``."""
    mask = mask.dense(9, 9) if isinstance(mask, sa.Mask) else np.True_ if mask is None else mask
    return np.broadcast_to(mask, (2, 2, 9, 9))


@pytest.mark.parametrize("attend", [sa.attention, sa.flash_attention], ids=["attention", "flash"])
class TestWhatIsNoNumber:
    """It makes NaN of every output that may see it, and reaches no other, nor a gradient."""

    @pytest.mark.parametrize(
        ("wrong", "options"),
        [(np.nan, {}), (np.inf, {"softcap": 2.0}), (-np.inf, {})],
        ids=["nan", "inf", "-inf"],
    )
    @pytest.mark.parametrize("name", ["q", "k", "v", "bias"])
    @pytest.mark.parametrize("rule", SEEN)
    def test_shows_where_it_is_seen(self, normal, attend, rule, name, wrong, options):
        allowed, at = dense(SEEN[rule]).copy(), (1, 0, 4, 2)
        given = {x: normal(2, 2, 9, 4) for x in "qkv"} | {"bias": normal(2, 2, 9, 9)}
        given["bias"][:, :, 6, :3] = -np.inf
        allowed[:, :, 6, :3] = False
        given[name][at] = wrong
        spoilt = np.zeros((2, 2, 9, 4), bool)
        if name == "q":
            spoilt[1, 0, 4] = allowed[1, 0, 4].any()
        elif name == "bias":
            spoilt[1, 0, 4] = allowed[1, 0, 4, 2] and wrong != -np.inf  # which forbids
        else:
            spoilt[1, 0, :, 2 if name == "v" else slice(None)] = allowed[1, 0, :, 4, None].squeeze(-1)[
                (..., None) if name == "k" else ...
            ]
        mask, good = SEEN[rule], {x: np.where(np.isnan(y) | (y == np.inf), 0, y) for x, y in given.items()}
        if name != "bias":
            good[name][at] = 0
        expected = np.where(spoilt, np.nan, sa.attention(**good, mask=mask, **options))
        with np.errstate(all="raise"):
            assert_allclose(attend(**given, mask=mask, **options), expected, atol=1e-12)
        found = {x: torch.tensor(y, requires_grad=True) for x, y in given.items()}
        right = {x: torch.tensor(y, requires_grad=True) for x, y in good.items()}
        mask = torch.tensor(mask) if isinstance(mask, np.ndarray) else mask
        output = attend(**found, mask=mask, **options)
        assert_allclose(output.detach(), expected, atol=1e-12)
        cotangent = torch.tensor(normal(2, 2, 9, 4))
        ours = torch.autograd.grad(output, list(found.values()), cotangent)
        cotangent = torch.where(torch.tensor(spoilt), 0, cotangent)
        output = sa.attention(**right, mask=mask, **options)
        theirs = torch.autograd.grad(output, list(right.values()), cotangent)
        for one, other in zip(ours, theirs, strict=True):
            assert_allclose(one, other, atol=1e-12)

    def test_values_without_a_width_cannot_show_it(self, like, attend):
        q, v = like([[np.nan, 1.0]]), like(np.ones((1, 0)))
        assert attend(q, q, v).shape == (1, 0)


class TestLimits:
    @pytest.mark.parametrize("scale", [0.0, -0.7])
    @pytest.mark.parametrize("rule", SEEN)
    def test_a_scale_need_not_be_positive(self, normal, rule, scale):
        q, k, v = (torch.tensor(normal(2, 2, 9, 4)) for _ in range(3))
        allowed = torch.tensor(dense(SEEN[rule]))
        weights = torch.exp(scale * q @ k.mT) * allowed
        expected = weights / weights.sum(-1, keepdim=True).clamp(min=1e-300) @ v
        mask = allowed if isinstance(SEEN[rule], np.ndarray) else SEEN[rule]
        assert_allclose(sa.flash_attention(q, k, v, mask=mask, scale=scale), expected, atol=1e-12)

    @pytest.mark.parametrize("rule", ["all", "causal", "window", "not"])
    def test_queries_without_a_width_see_all_alike(self, like, normal, rule):
        q, v = like(np.ones((2, 2, 9, 0))), like(normal(2, 2, 9, 3))
        expected = np.stack([[dense(SEEN[rule])[0, 0] @ x for x in y] for y in np.asarray(v)])
        expected /= dense(SEEN[rule]).sum(-1, keepdims=True).clip(1)
        assert_allclose(sa.flash_attention(q, q, v, mask=SEEN[rule]), expected, atol=1e-12)
        assert sa.flash_attention(q, q, q, mask=SEEN[rule]).shape == (2, 2, 9, 0)

    @pytest.mark.parametrize("rule", ["all", "causal", "window", "documents", "not"])
    def test_an_empty_batch_gives_an_empty_result(self, like, rule):
        x = like(np.ones((0, 2, 9, 4)))
        assert sa.flash_attention(x, x, x, mask=SEEN[rule]).shape == (0, 2, 9, 4)

    @pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
    @pytest.mark.parametrize("attend", [sa.attention, sa.flash_attention], ids=["attention", "flash"])
    def test_the_lowest_number_as_a_bias_raises_nothing(self, normal, attend, kind):
        q, k, v = (x.astype(kind) for x in normal(3, 9, 4))
        bias = np.where(np.tri(9, dtype=bool), 0, np.finfo(kind).min).astype(kind)
        exact = sa.attention(*(x.astype(float) for x in (q, k, v)), mask=sa.causal)
        with np.errstate(all="raise"):
            output = attend(q, k, v, bias=bias)
        assert output.dtype == kind
        assert_allclose(output, exact, atol=8 * np.finfo(kind).eps)

    @pytest.mark.parametrize("kinds", list(product(["float16", "bfloat16", "float32", "float64"], repeat=4)))
    def test_mixed_types_are_promoted_and_a_bias_is_not_counted(self, normal, kinds):
        q, k, v = (torch.tensor(normal(9, 4), dtype=getattr(torch, kind)) for kind in kinds[:3])
        bias = torch.tensor(normal(9, 9), dtype=getattr(torch, kinds[3]))
        kind = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
        exact = sa.attention(q.double(), k.double(), v.double(), bias=bias.double(), mask=sa.causal)
        for attend in (sa.attention, sa.flash_attention):
            output = attend(q, k, v, bias=bias, mask=sa.causal)
            assert output.dtype == kind
            assert_allclose(output.double(), exact, atol=8 * torch.finfo(kind).eps)


@pytest.mark.parametrize("options", [{}, {"softcap": 1.5}], ids=["plain", "softcap"])
@pytest.mark.parametrize("biased", [False, True], ids=["without bias", "bias"])
@pytest.mark.parametrize("rule", SEEN)
class TestDerivatives:
    """Of any order, of all inputs, through several tiles and through one, they are those of `attention`."""

    def problem(self, normal, rule, biased, options):
        inputs = [torch.tensor(normal(*shape)) for shape in [(2, 2, 9, 3), (2, 1, 9, 3), (2, 1, 9, 2)]]
        inputs += [torch.tensor(normal(2, 9, 9))] * biased
        mask = torch.tensor(SEEN[rule]) if isinstance(SEEN[rule], np.ndarray) else SEEN[rule]

        def loss(attend, *inputs):
            bias = inputs[3] if biased else None
            return (attend(*inputs[:3], mask=mask, bias=bias, **options) ** 2).sum()

        return inputs, loss

    def same(self, ours, theirs):
        for one, other in zip(ours, theirs, strict=True):
            assert_allclose(one.detach(), other.detach(), atol=1e-9)

    def test_penalties_and_what_comes_after(self, normal, rule, biased, options):
        inputs, loss = self.problem(normal, rule, biased, options)
        inputs, found = [x.requires_grad_() for x in inputs], []
        for attend in (sa.attention, sa.flash_attention):
            first = loss(attend, *inputs)
            second = sum((x**2).sum() for x in torch.autograd.grad(first, inputs, create_graph=True))
            third = torch.autograd.grad(second, inputs, create_graph=True)
            again = torch.autograd.grad(first, inputs, retain_graph=True)
            last = torch.autograd.grad(sum((x**2).sum() for x in third), inputs, allow_unused=True)
            found.append([*third, *again, *(x for x in last if x is not None)])
        self.same(*found)

    def test_forward_mode(self, normal, rule, biased, options):
        inputs, loss = self.problem(normal, rule, biased, options)
        found = []
        for attend in (sa.attention, sa.flash_attention):
            with torch.autograd.forward_ad.dual_level(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's own, as it loads its rules
                duals = [torch.autograd.forward_ad.make_dual(x, x.flip(-1)) for x in inputs]
                found.append([torch.autograd.forward_ad.unpack_dual(loss(attend, *duals)).tangent])
        self.same(*found)

    def test_batched_gradients(self, normal, rule, biased, options):
        inputs, loss = self.problem(normal, rule, biased, options)
        inputs, found = [x.requires_grad_() for x in inputs], []
        for attend in (sa.attention, sa.flash_attention):
            output = loss(attend, *inputs) * torch.ones(3)
            output = torch.autograd.grad(output, inputs, torch.eye(3), is_grads_batched=True)
            found.append(output)
        self.same(*found)


KEPT = {
    "one tile": {},
    "tiles": {"mask": sa.sliding_window(3)},
    "softcap": {"mask": sa.causal, "softcap": 1.5},
}


@pytest.mark.parametrize("options", KEPT.values(), ids=KEPT)
class TestAgain:
    @pytest.mark.parametrize("attend", [sa.attention, sa.flash_attention], ids=["attention", "flash"])
    def test_a_graph_that_is_kept_gives_the_same(self, normal, options, attend):
        inputs = [torch.tensor(normal(2, 9, 3), requires_grad=True) for _ in "qkv"]
        output = attend(*inputs, **options).sin().sum()
        once = torch.autograd.grad(output, inputs, retain_graph=True)
        for first, second in zip(once, torch.autograd.grad(output, inputs), strict=True):
            assert_array_equal(first, second)

    @pytest.mark.parametrize("reentrant", [True, False])
    def test_recomputed_in_the_backward_pass(self, normal, options, reentrant):
        inputs = [torch.tensor(normal(2, 9, 3), requires_grad=True) for _ in "qkv"]
        attend = partial(sa.flash_attention, **options)
        found = []
        for output in (checkpoint(attend, *inputs, use_reentrant=reentrant), attend(*inputs)):
            for x in inputs:
                x.grad = None
            output.sin().sum().backward()
            found.append([x.grad for x in inputs])
        for ours, theirs in zip(*found, strict=True):
            assert_array_equal(ours, theirs)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
class TestAutocast:
    """What is computed in float32 stays so: torch would narrow the products."""

    CALLS = {  # noqa: RUF012
        "attention": sa.attention,
        "attention, softcap": partial(sa.attention, softcap=30.0, mask=sa.causal),
        "flash": sa.flash_attention,
        "flash, tiles": partial(sa.flash_attention, mask=sa.sliding_window(3)),
        "flash, softcap": partial(sa.flash_attention, softcap=30.0, mask=sa.causal),
        "linear": sa.linear_attention,
        "linear, causal": partial(sa.linear_attention, causal=True),
    }

    @pytest.mark.parametrize("name", CALLS)
    @pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16], ids=str)
    def test_nothing_changes(self, normal, half, name, kind):
        inputs = [torch.tensor(normal(2, 70, 16), dtype=kind, requires_grad=True) for _ in range(3)]
        with torch.autocast("cpu", half):
            found = self.CALLS[name](*inputs)
        expected = self.CALLS[name](*inputs)
        assert found.dtype == kind
        assert_array_equal(found.detach().float(), expected.detach().float())
        gradients = [torch.autograd.grad(output.float().sin().sum(), inputs) for output in (found, expected)]
        for ours, theirs in zip(*gradients, strict=True):
            assert_array_equal(ours.float(), theirs.float())

    @pytest.mark.parametrize("attend", [sa.attention, sa.flash_attention], ids=["attention", "flash"])
    def test_large_scores_do_not_overflow(self, normal, half, attend):
        """Of 200 · 64 the products are 2.6 million each: float16 ends at 65504."""
        signs = torch.tensor(np.sign(normal(2, 9, 64)), dtype=half)
        v = torch.tensor(normal(9, 3), dtype=half)
        exact = attend(200.0 * signs[0].double(), 64.0 * signs[1].double(), v.double(), scale=1e-4)
        for inside in (False, True):
            with torch.autocast("cpu", half, enabled=inside):
                found = attend(200.0 * signs[0], 64.0 * signs[1], v, scale=1e-4)
            assert_allclose(found.double(), exact, atol=8 * torch.finfo(half).eps)


class TestTracing:
    @pytest.mark.parametrize("mask", [None, sa.causal, sa.sliding_window(5), np.tri(60, dtype=bool)])
    def test_vmap_and_the_gradient_under_it(self, normal, mask):
        mask = torch.tensor(mask) if isinstance(mask, np.ndarray) else mask
        q, k, v = (torch.tensor(normal(3, 2, 60, 4), requires_grad=True) for _ in range(3))

        def loss(attend):
            return lambda q, k, v: (attend(q, k, v, mask=mask) ** 2).sum()

        expected = torch.autograd.grad(loss(sa.attention)(q, k, v), (q, k, v))
        one = torch.func.grad(loss(sa.flash_attention), (0, 1, 2))
        for found, gradient in zip(torch.func.vmap(one)(q, k, v), expected, strict=True):
            assert_allclose(found.detach(), gradient, atol=1e-12)

    @pytest.mark.parametrize(
        ("rule", "numbers"), [(sa.padding, [3, 9]), (sa.documents, [[0, 1] * 4 + [1], [2] * 9])]
    )
    @pytest.mark.parametrize("attend", [sa.attention, sa.flash_attention])
    def test_vmap_over_the_numbers_of_a_rule(self, normal, attend, rule, numbers):
        q, k, v = (torch.tensor(normal(2, 9, 4)) for _ in range(3))

        def one(numbers):
            return attend(q, k, v, mask=sa.causal & ~~rule(numbers))

        expected = np.stack([one(torch.tensor(x)) for x in numbers])
        assert_allclose(torch.func.vmap(one)(torch.tensor(numbers)), expected, atol=1e-12)

    def test_fake_tensors_have_a_shape(self):
        with FakeTensorMode() as mode:
            x, lengths = mode.from_tensor(torch.ones(2, 2, 9, 4)), mode.from_tensor(torch.tensor([3, 9]))
            for mask in (None, sa.sliding_window(2), sa.padding(lengths), sa.documents([0] * 9)):
                assert sa.flash_attention(x, x, x, mask=mask).shape == (2, 2, 9, 4)

    @pytest.mark.parametrize("attend", [sa.attention, sa.flash_attention, sa.linear_attention])
    def test_one_type_asks_for_no_promotion(self, monkeypatch, attend):
        x = torch.ones(2, 9, 4, dtype=torch.bfloat16)
        monkeypatch.setattr(torch, "result_type", None)  # torch.compile breaks its graph there
        assert attend(x, x, x).dtype == torch.bfloat16

    @pytest.mark.parametrize("name", ["q", "k", "v", "mask", "bias"])
    def test_vmap_over_one_argument_alone(self, normal, name):
        given = {x: torch.tensor(normal(60, 4)) for x in "qkv"} | {"bias": torch.tensor(normal(60, 60))}
        given["mask"] = torch.tensor(normal(60, 60)) > 0
        many = torch.tensor(normal(3, *given[name].shape))
        many = many > 0 if name == "mask" else many

        def attend(function):
            return lambda one: function(**given | {name: one}, scale=0.3, softcap=2.0)

        expected = torch.stack([attend(sa.attention)(one) for one in many])
        assert_allclose(torch.func.vmap(attend(sa.flash_attention))(many), expected, atol=1e-12)


@pytest.mark.usefixtures("tiles_as_they_are")
class TestMemory:
    N = 4096

    @pytest.mark.parametrize(
        ("options", "factor"),
        [
            ({}, 8),
            ({"mask": sa.causal}, 8),
            ({"mask": sa.sliding_window(64)}, 3),
            ({"mask": sa.documents(np.arange(4096) // 100)}, 3),
            ({"mask": ~sa.causal, "softcap": 3.0}, 8),
        ],
        ids=["all", "causal", "window", "documents", "rule"],
    )
    def test_numpy_holds_far_less_than_the_scores(self, normal, options, factor):
        q, k, v = (x.astype(np.float32) for x in normal(3, 1, self.N, 16))
        tracemalloc.start()
        sa.flash_attention(q, k, v, **options)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < self.N**2 * 4 / factor

    def test_memory_grows_with_the_length(self):
        def peak(n):
            q = np.ones((n, 4), np.float32)
            tracemalloc.start()
            sa.flash_attention(q, q, q, mask=sa.sliding_window(32))
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            return peak

        assert peak(16_384) < 2.5 * peak(8_192)

    @pytest.mark.usefixtures("tiles_as_they_are")
    def test_no_argument_is_copied(self):
        q = np.full((2**15, 64), 1e-3, np.float32)
        sa.flash_attention(q[:64], q[:64], q[:64], mask=sa.sliding_window(32))  # loads what is loaded once
        tracemalloc.start()
        output = sa.flash_attention(q, q, q, mask=sa.sliding_window(32))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak - output.nbytes < q.nbytes / 2

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"mask": sa.causal},
            {"mask": sa.sliding_window(64)},
            {"mask": sa.documents(np.arange(2048) % 3)},
            {"mask": sa.causal, "softcap": 3.0},
            {"mask": sa.causal, "bias": torch.zeros(1, 2048, requires_grad=True)},
        ],
        ids=["all", "causal", "window", "scattered documents", "softcap", "bias"],
    )
    def test_torch_holds_no_array_of_scores_forward_or_backward(self, normal, largest, options):
        q, k, v = (torch.tensor(normal(2, 2048, 8), requires_grad=True) for _ in range(3))
        saved = []
        with (
            largest,
            torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x),
        ):
            output = sa.flash_attention(q, k, v, **options)
            kept = sum(saved)
            output.sum().backward()
        assert largest.entries <= 2048**2 / 3
        assert kept <= 10 * 3 * q.numel()

    def test_a_gradient_that_nobody_asked_for_takes_no_memory(self, normal, largest):
        q = torch.tensor(normal(1024, 8), requires_grad=True)
        bias = torch.zeros(1, 1, dtype=q.dtype).expand(1024, 1024)  # a single number in memory
        with largest:
            sa.flash_attention(q, q, q, mask=sa.causal, bias=bias).sum().backward()
        assert largest.entries <= 1024**2 / 3


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("shapes", "options"),
    [
        ([(2, 3), (4, 5), (4, 3)], {}),
        ([(2, 3), (4, 3), (5, 3)], {}),
        ([(2, 3), (4, 3), (4,)], {}),
        ([(3,), (4, 3), (4, 3)], {}),
        ([(4, 2, 3), (3, 2, 3), (3, 2, 3)], {}),
        ([(4, 2, 3), (4, 2, 3), (3, 2, 3)], {}),
        ([(2, 1, 2, 3), (3, 1, 2, 3), (3, 1, 2, 3)], {}),
        ([(2, 3), (4, 3), (4, 3)], {"mask": np.ones((4, 2), bool)}),
        ([(2, 3), (4, 3), (4, 3)], {"mask": np.ones((1, 2, 4), bool)}),
        ([(2, 3), (4, 3), (4, 3)], {"mask": np.ones((2, 4))}),
        ([(2, 3), (4, 3), (4, 3)], {"mask": [[True] * 4] * 2}),
        ([(2, 3), (4, 3), (4, 3)], {"mask": torch.ones(2, 4) > 0}),
        ([(2, 3), (4, 3), (4, 3)], {"mask": sa.padding([1, 2])}),
        ([(2, 3), (4, 3), (4, 3)], {"mask": sa.documents([1])}),
        ([(2, 3), (4, 3), (4, 3)], {"bias": np.ones((2, 3))}),
        ([(2, 3), (4, 3), (4, 3)], {"bias": np.ones((3, 2, 4))}),
        ([(2, 3), (4, 3), (4, 3)], {"bias": np.ones((2, 4), int)}),
        ([(2, 3), (4, 3), (4, 3)], {"bias": torch.ones(2, 4)}),
    ],
)
def test_what_attention_refuses_is_refused_in_its_words(shapes, options):
    arrays = [np.ones(shape, np.float32) for shape in shapes]
    with pytest.raises((TypeError, ValueError)) as theirs:
        sa.attention(*arrays, **options)
    with pytest.raises(theirs.type) as ours:
        sa.flash_attention(*arrays, **options)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.usefixtures("unchecked")
def test_a_predicate_that_gives_no_booleans_is_refused():
    x = np.ones((4, 3))
    with pytest.raises(TypeError, match=r"predicate returns a boolean array .* returned numpy int64"):
        sa.flash_attention(x, x, x, mask=sa.Mask(lambda i, j: j - i))
