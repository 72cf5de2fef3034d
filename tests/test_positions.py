import math
import re
from functools import partial
from itertools import count
from types import SimpleNamespace

import array_api_strict
import numpy as np
import pytest
import torch
from array_api_compat import array_namespace, device
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_array_equal
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.gpt_neox import modeling_gpt_neox
from transformers.models.gptj import modeling_gptj
from transformers.models.llama import modeling_llama
from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding
from transformers.models.t5.modeling_t5 import T5Attention

import selfattn as sa
from selfattn.arrays import describe

assert_allclose = partial(np.testing.assert_allclose, rtol=0)  # its own default, 1e-7, would be added

layouts = pytest.mark.parametrize("interleaved", [False, True])
vectors = arrays(np.float64, (1, 8), elements=st.floats(-9, 9))
positions = st.integers(-5000, 5000) | st.floats(-5000, 5000)
counts = st.integers(0, 6)


class TestSinusoidal:
    @pytest.mark.parametrize(("n", "d"), [(0, 4), (1, 2), (7, 6), (50, 16)])
    def test_every_entry_as_in_the_paper(self, like, n, d):
        table = sa.sinusoidal(n, d, like=like([0.0]))
        wave = [[math.cos if j % 2 else math.sin for j in range(d)] for _ in range(n)]
        expected = [[wave[p][j](p / 10000 ** (j // 2 * 2 / d)) for j in range(d)] for p in range(n)]
        assert_allclose(table, np.reshape(expected, (n, d)), atol=1e-13)

    def test_same_as_marians_up_to_the_order_of_features(self):
        sines_then_cosines = MarianSinusoidalPositionalEmbedding(40, 12)
        expected = sines_then_cosines.create_weight()
        assert_allclose(
            np.hstack([(table := sa.sinusoidal(40, 12))[:, ::2], table[:, 1::2]]), expected, atol=1e-7
        )

    @given(st.integers(-20, 20))
    def test_a_shift_is_the_same_rotation_at_every_position(self, shift):
        table = sa.sinusoidal(60, 8)[20:40], sa.sinusoidal(60, 8)[20 + shift : 40 + shift]
        rotation = np.zeros((8, 8))
        for i in range(4):
            angle = shift / 10000 ** (i / 4)
            block = [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
            rotation[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = block
        assert_allclose(table[0] @ rotation.T, table[1], atol=1e-13)

    def test_far_positions_are_exact_even_in_float32(self, like):
        row = sa.sinusoidal(1_000_001, 4, like=like([0.0], "float32"))[-1, ...]
        exact = [math.sin(1e6), math.cos(1e6), math.sin(1e4), math.cos(1e4)]
        assert_allclose(row, exact, atol=1e-7)


class TestRotary:
    @pytest.mark.parametrize("rotary_dim", [None, 2, 6])
    def test_a_quarter_turn_by_hand(self, like, rotary_dim):
        x = like([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
        quarter = like([math.pi / 2])
        turned = {
            None: ([-4, -5, -6, 1, 2, 3], [-2, 1, -4, 3, -6, 5]),
            2: ([-2, 1, 3, 4, 5, 6], [-2, 1, 3, 4, 5, 6]),
        }
        half, interleaved = turned.get(rotary_dim, turned[None])
        options = {"base": 1.0, "rotary_dim": rotary_dim}
        assert_allclose(sa.rotary(x, quarter, **options), [half], atol=1e-15)
        assert_allclose(sa.rotary(x, quarter, interleaved=True, **options), [interleaved], atol=1e-15)

    @pytest.mark.parametrize("base", [10000.0, 500.0])
    def test_same_as_llama(self, like, normal, base):
        q, k, where = normal(2, 3, 5, 8), normal(2, 1, 5, 8), np.array([[0, 1, 2, 3, 4], [9, 7, 300, 1, 2]])
        config = SimpleNamespace(rope_parameters={"rope_theta": base}, head_dim=8)
        frequencies, _ = modeling_llama.LlamaRotaryEmbedding.compute_default_rope_parameters(config)
        angles = torch.tensor(where)[..., None] * torch.cat([frequencies, frequencies]).double()
        theirs = modeling_llama.apply_rotary_pos_emb(
            torch.tensor(q), torch.tensor(k), angles.cos(), angles.sin()
        )
        for x, expected in zip((q, k), theirs, strict=True):
            ours = sa.rotary(like(x), like(where[:, None], "int64"), base=base)
            assert_allclose(ours, expected, atol=1e-5)  # their frequencies are float32

    def test_same_as_gpt_neox_with_a_partial_width(self, like, normal):
        x, rotary_dim = normal(2, 3, 5, 12), 4
        angles = torch.tensor(np.arange(5)[None, :, None] / 10000 ** (np.array([0, 2, 0, 2]) / rotary_dim))
        expected, _ = modeling_gpt_neox.apply_rotary_pos_emb(
            torch.tensor(x), torch.tensor(x), angles.cos(), angles.sin()
        )
        ours = sa.rotary(like(x), like(np.arange(5), "int64"), rotary_dim=rotary_dim)
        assert_allclose(ours, expected, atol=1e-13)

    def test_same_as_gpt_j_interleaved(self, like, normal):
        x = normal(2, 5, 3, 8)  # their heads come after the positions
        sin, cos = modeling_gptj.create_sinusoidal_positions(5, 8).double().chunk(2, dim=-1)
        expected = modeling_gptj.apply_rotary_pos_emb(torch.tensor(x), sin[None], cos[None])
        ours = sa.rotary(like(np.moveaxis(x, 1, 2)), like(np.arange(5), "int64"), interleaved=True)
        assert_allclose(ours, np.moveaxis(expected.numpy(), 1, 2), atol=1e-6)  # their table is float32

    @layouts
    @given(vectors, vectors, positions, positions, st.integers(-5000, 5000))
    def test_scores_depend_on_the_difference_of_positions_only(self, interleaved, q, k, p, q_p, shift):
        def score(p, q_p):
            return sa.rotary(q, np.array([p]), **options) @ sa.rotary(k, np.array([q_p]), **options).T

        for rotary_dim in (None, 4):
            options = {"interleaved": interleaved, "rotary_dim": rotary_dim}
            assert_allclose(score(p + shift, q_p + shift), score(p, q_p), atol=1e-8)
            assert_allclose(sa.rotary(q, np.array([p - q_p]), **options) @ k.T, score(p, q_p), atol=1e-8)

    @layouts
    @given(vectors, positions, positions)
    def test_it_is_a_rotation(self, like, interleaved, x, p, q_p):
        def turn(x, p):
            return np.asarray(sa.rotary(like(x), like([float(p)]), interleaved=interleaved))

        assert_array_equal(turn(x, 0), x)
        assert_allclose(np.linalg.norm(turn(x, p)), np.linalg.norm(x), atol=1e-12)
        assert_allclose(turn(turn(x, p), q_p), turn(x, p + q_p), atol=1e-10)
        assert_allclose(turn(turn(x, p), -p), x, atol=1e-10)

    @given(vectors, positions, st.sampled_from([2, 6, 8]))
    def test_the_layouts_are_one_up_to_the_order_of_features(self, x, p, r):
        order = [*range(0, r, 2), *range(1, r, 2), *range(r, 8)]
        options = {"rotary_dim": r, "base": 7.0}
        halves = sa.rotary(x[:, order], np.array([p]), **options)
        assert_allclose(
            halves, sa.rotary(x, np.array([p]), interleaved=True, **options)[:, order], atol=1e-14
        )

    def test_one_step_turns_what_sinusoidal_adds(self, like):
        table = sa.sinusoidal(9, 6, like=like([0.0]))
        back = sa.rotary(table[:8, :], like(-np.ones(8)), interleaved=True)  # sines come first: clockwise
        assert_allclose(back, table[1:, :], atol=1e-14)

    @layouts
    def test_positions_broadcast(self, like, normal, interleaved):
        x, where = normal(2, 3, 5, 4), 100 * normal(2, 3, 5)
        for shape in [(2, 3, 5), (2, 1, 5), (3, 1), (5,), (1,), ()]:
            some = where[tuple(slice(0, size) for size in (1,) * (3 - len(shape)) + shape)].reshape(shape)
            together = sa.rotary(like(x), like(some), interleaved=interleaved)
            for index in np.ndindex(2, 3, 5):
                at = np.broadcast_to(some, (2, 3, 5))[index]
                alone = sa.rotary(x[index][None], np.array([at]), interleaved=interleaved)
                assert_allclose(together[(*index, ...)], alone[0], atol=1e-13)

    @pytest.mark.parametrize("make", [np.float32, lambda x: torch.tensor(x).float()], ids=["numpy", "torch"])
    def test_float32_knows_far_positions(self, normal, make):
        x, far = normal(1, 8), 10.0**7
        turned = sa.rotary(make(x), array_namespace(make(x)).asarray([int(far)]))
        assert turned.dtype == make(x).dtype
        assert_allclose(turned, sa.rotary(x, np.array([far])), atol=2e-6)

    @pytest.mark.parametrize(
        ("make", "epsilon"),
        [
            (lambda x: x.astype(np.float16), 2**-11),
            (lambda x: torch.tensor(x, dtype=torch.float16), 2**-11),
            (lambda x: torch.tensor(x, dtype=torch.bfloat16), 2**-8),
        ],
        ids=["numpy float16", "torch float16", "torch bfloat16"],
    )
    @layouts
    def test_half_precision_keeps_its_type_and_rounds_only_once(self, normal, make, epsilon, interleaved):
        x = make(normal(300, 8))
        where = array_namespace(x).arange(300)
        options = {"interleaved": interleaved, "base": 50.0, "rotary_dim": 6}
        turned = sa.rotary(x, where, **options)
        assert turned.dtype == x.dtype
        exact = sa.rotary(torch.as_tensor(x).double(), torch.arange(300), **options)
        assert_allclose(torch.as_tensor(turned).double(), exact, rtol=epsilon, atol=1e-6)

    @layouts
    def test_gradients_reach_the_features_and_the_positions(self, normal, interleaved):
        x, where = (torch.tensor(normal(*shape), requires_grad=True) for shape in [(2, 3, 6), (2, 1)])

        def turn(x, where):
            return sa.rotary(x, where, interleaved=interleaved, rotary_dim=4)

        assert torch.autograd.gradcheck(turn, (x, where))

    @layouts
    def test_vmap_is_a_leading_axis(self, normal, interleaved):
        x, where = torch.tensor(normal(3, 2, 5, 6)), torch.tensor(normal(3, 5))

        def turn(x, where):
            return sa.rotary(x, where, interleaved=interleaved, rotary_dim=4)

        assert_allclose(torch.func.vmap(turn)(x, where), turn(x, where[:, None]), atol=1e-14)

    def test_nothing_to_turn(self, like):
        assert sa.rotary(like(np.ones((2, 0, 4))), like(np.arange(0), "int64")).shape == (2, 0, 4)


class TestAlibi:
    @pytest.mark.parametrize(
        ("num_heads", "halvings"),
        [
            (1, [8]),
            (2, [4, 8]),
            (6, [2, 4, 6, 8, 1, 3]),
            (8, [1, 2, 3, 4, 5, 6, 7, 8]),
            (12, [1, 2, 3, 4, 5, 6, 7, 8, 0.5, 1.5, 2.5, 3.5]),
        ],
    )
    def test_slopes(self, like, num_heads, halvings):
        bias = np.asarray(sa.alibi(num_heads, 1, 2, like=like([0.0])))
        assert_allclose(-bias[:, 0, 0], 0.5 ** np.array(halvings), rtol=1e-15)

    @pytest.mark.parametrize("num_heads", [1, 3, 8, 20, 112])
    def test_same_weights_as_blooms_under_a_causal_mask(self, normal, num_heads):
        q, k = normal(num_heads, 9, 4), normal(num_heads, 9, 4)
        theirs = build_alibi_tensor(torch.ones(1, 9), num_heads, torch.float32).double().numpy()
        ours = sa.attention_weights(q, k, mask=sa.causal, bias=sa.alibi(num_heads, 9, 9))
        assert_allclose(ours, sa.attention_weights(q, k, mask=sa.causal, bias=theirs), atol=1e-6)

    @given(st.integers(1, 20), counts, counts)
    def test_every_entry_is_minus_slope_times_distance(self, like, num_heads, q_len, past):
        bias = np.asarray(sa.alibi(num_heads, q_len, past + q_len, like=like([0.0])))
        slopes = -np.asarray(sa.alibi(num_heads, 1, 2))[:, 0, 0]
        distances = [[abs(past + i - j) for j in range(past + q_len)] for i in range(q_len)]
        expected = -slopes[:, None, None] * np.reshape(distances, (q_len, past + q_len))
        assert_allclose(bias, expected, atol=1e-15)
        assert not np.signbit(bias[bias == 0]).any()

    def test_a_cache_changes_nothing(self, like, normal):
        q, k, v = (like(normal(6, 7, 4)) for _ in range(3))
        whole = sa.attention(q, k, v, mask=sa.causal, bias=sa.alibi(6, 7, 7, like=q))
        last = sa.attention(q[:, 5:, :], k, v, mask=sa.causal.shift(5), bias=sa.alibi(6, 2, 7, like=q))
        assert_allclose(last, whole[:, 5:, :], atol=1e-14)


class TestRelativeBuckets:
    @pytest.mark.parametrize("bidirectional", [True, False])
    @pytest.mark.parametrize(
        ("num_buckets", "max_distance"),
        [(32, 128), (32, 64), (64, 256), (8, 20), (9, 128), (18, 128), (19, 16), (54, 64), (7, 4)],
    )
    def test_same_as_t5(self, like, num_buckets, max_distance, bidirectional):
        options = {"num_buckets": num_buckets, "max_distance": max_distance, "bidirectional": bidirectional}
        buckets = sa.relative_buckets(300, 300, like=like([0.0]), **options)
        offsets = torch.arange(300)[None, :] - torch.arange(300)[:, None]
        assert_array_equal(buckets, T5Attention._relative_position_bucket(offsets, **options))

    def test_the_published_models_by_hand(self, like):
        buckets = np.asarray(sa.relative_buckets(1000, 1000, like=like([0.0])))
        before = {
            0: 0,
            1: 1,
            7: 7,
            8: 8,
            11: 8,
            12: 9,
            16: 10,
            32: 12,
            64: 14,
            90: 14,
            91: 15,
            128: 15,
            999: 15,
        }
        for distance, bucket in before.items():
            assert buckets[999, 999 - distance] == bucket
            assert buckets[0, distance] == (bucket + 16 if distance else 0)
        later = np.triu_indices(1000, 1)
        assert_array_equal(np.asarray(sa.relative_buckets(1000, 1000, bidirectional=False))[later], 0)

    @given(counts, counts, st.booleans())
    def test_the_queries_are_the_last_positions(self, q_len, past, bidirectional):
        n, options = past + q_len, {"num_buckets": 8, "max_distance": 5, "bidirectional": bidirectional}
        whole = sa.relative_buckets(n, n, **options)
        assert_array_equal(sa.relative_buckets(q_len, n, **options), whole[past:])

    def test_integers_of_the_examples_library_whatever_it_holds(self, like, xp):
        buckets = sa.relative_buckets(2, 3, like=like([1, 2], "int64"))
        assert buckets.dtype == xp.int64
        assert array_namespace(buckets) is array_namespace(like(0.0))


tables = pytest.mark.parametrize(
    "table",
    [
        lambda like=None: sa.sinusoidal(3, 4, like=like),
        lambda like=None: sa.alibi(3, 2, 4, like=like),
        lambda like=None: sa.relative_buckets(2, 4, like=like),
    ],
    ids=["sinusoidal", "alibi", "relative_buckets"],
)


@tables
class TestTables:
    def test_without_an_example_a_table_is_numpys(self, table):
        assert isinstance(table(), np.ndarray)
        assert table().dtype in (np.float64, np.int64)

    def test_it_is_made_where_the_example_lives(self, table):
        example = array_api_strict.empty(0, device=array_api_strict.Device("device1"))
        assert device(table(like=example)) == device(example)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_it_has_the_examples_type_and_rounds_only_once(self, table, dtype):
        ours = table(like=torch.empty(0, dtype=dtype))
        assert ours.dtype in (dtype, torch.int64)
        assert_array_equal(ours.double(), torch.tensor(table()).to(ours.dtype).double())


EVEN = "expected n >= 0 and an even, positive d"
LAST = "queries are the last of the keys' positions"
EXACT = "expected 0 < exact buckets < max_distance"


@pytest.mark.usefixtures("unchecked")
class TestErrors:
    @pytest.mark.parametrize(
        ("call", "seen"),
        [
            (lambda: sa.sinusoidal(3, 5), f"{EVEN}; got n=3, d=5"),
            (lambda: sa.sinusoidal(3, 0), f"{EVEN}; got n=3, d=0"),
            (lambda: sa.sinusoidal(-1, 2), f"{EVEN}; got n=-1, d=2"),
            (lambda: sa.alibi(0, 1, 1), "expected one head or more; got num_heads=0"),
            (lambda: sa.alibi(1, 3, 2), f"{LAST}; got q_len=3, kv_len=2"),
            (lambda: sa.alibi(1, -1, 2), f"{LAST}; got q_len=-1, kv_len=2"),
            (lambda: sa.relative_buckets(4, 2), f"{LAST}; got q_len=4, kv_len=2"),
            (
                lambda: sa.relative_buckets(1, 1, num_buckets=3),
                f"{EXACT}; got 0 exact ones, num_buckets=3, max_distance=128, bidirectional=True",
            ),
            (
                lambda: sa.relative_buckets(1, 1, max_distance=16, bidirectional=False),
                f"{EXACT}; got 16 exact ones, num_buckets=32, max_distance=16, bidirectional=False",
            ),
        ],
    )
    def test_numbers_that_do_not_fit(self, call, seen):
        with pytest.raises(ValueError, match=f"^{re.escape(seen)}$"):
            call()

    @pytest.mark.parametrize(
        ("shape", "rotary_dim", "seen"),
        [((2, 5), None, 5), ((2, 6), 3, 3), ((2, 6), 8, 8), ((2, 6), 0, 0), ((2, 6), -2, -2)],
    )
    def test_widths_that_cannot_turn(self, like, shape, rotary_dim, seen):
        x = like(np.ones(shape))
        message = f"an even number of x's features can turn; got rotary_dim={seen}, {describe(x=x)}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            sa.rotary(x, like([0.0, 1.0]), rotary_dim=rotary_dim)

    @pytest.mark.parametrize(
        ("shape", "where"), [((2, 6), (3,)), ((3, 2, 6), (3,)), ((2, 6), (1, 2)), ((1, 6), (2,))]
    )
    def test_positions_that_do_not_fit(self, like, shape, where):
        x, where = like(np.ones(shape)), like(np.ones(where))
        message = f"positions must broadcast to the (..., n) of x; got {describe(x=x, positions=where)}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            sa.rotary(x, where)

    def test_integers_to_turn(self, like):
        x = like([[1, 2]], "int64")
        message = f"expected real floating-point arrays; got {describe(x=x)}"
        with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
            sa.rotary(x, like([0], "int64"))

    def test_what_is_no_position(self, like, xp):
        x, wanted = like([[1.0, 2.0]]), "positions are numbers in an array of x's library"
        for stranger in ([0], 0, (np if xp is torch else torch).ones(1), like([True], "bool")):
            message = f"{wanted}; got {describe(x=x, positions=stranger)}"
            with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
                sa.rotary(x, stranger)

    def test_an_example_of_integers(self, like):
        for table in (sa.sinusoidal, partial(sa.alibi, 1)):
            with pytest.raises(TypeError, match=r"real floating-point arrays; got like \w+ int64"):
                table(2, 2, like=like([1], "int64"))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "error", "seen"),
    [
        (lambda: sa.sinusoidal(2.5, 4), TypeError, "n is an integer; got 2.5"),
        (lambda: sa.sinusoidal(2, 4.0), TypeError, "d is an integer; got 4.0"),
        (lambda: sa.alibi(2.0, 3, 3), TypeError, "num_heads is an integer; got 2.0"),
        (lambda: sa.alibi(2, 2.5, 3), TypeError, "q_len is an integer; got 2.5"),
        (lambda: sa.alibi(2, 2, 3.0), TypeError, "kv_len is an integer; got 3.0"),
        (lambda: sa.relative_buckets(2, 2, num_buckets=8.0), TypeError, "num_buckets is an integer; got 8.0"),
        (lambda: sa.relative_buckets(2, 2, max_distance=np.inf), ValueError, "finite number; got inf"),
        (lambda: sa.rotary(np.ones((1, 2)), np.arange(1), base=0), ValueError, "positive number; got 0"),
        (lambda: sa.rotary(np.ones((1, 2)), np.arange(1), base=-1.0), ValueError, "number; got -1.0"),
        (lambda: sa.rotary(np.ones((1, 2)), np.arange(1), base=np.nan), ValueError, "number; got nan"),
        (lambda: sa.rotary(np.ones((1, 2)), np.arange(1), base="3"), TypeError, "is a number; got '3'"),
        (lambda: sa.rotary(np.ones((1, 2)), np.arange(1), rotary_dim=2.0), TypeError, "integer; got 2.0"),
        (lambda: sa.split_heads(np.ones((1, 4)), 2.0), TypeError, "num_heads is an integer; got 2.0"),
    ],
    ids=count(),
)
def test_what_is_no_count_or_base_is_named(call, error, seen):
    with pytest.raises(error, match=seen):
        call()


@pytest.mark.usefixtures("unchecked")
def test_numpys_integers_count_too():
    assert sa.alibi(np.int64(3), np.int64(2), np.uint8(2)).shape == (3, 2, 2)
    assert sa.sinusoidal(np.int8(3), np.int64(4)).shape == (3, 4)
