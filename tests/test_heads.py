import re
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import selfattn as sa
from selfattn.arrays import describe

assert_allclose = partial(np.testing.assert_allclose, rtol=0)  # its own default, 1e-7, would be added


@pytest.fixture
def weights(normal):
    """Draw the four matrices of a layer, in the order in which they are passed."""

    def draw(num_kv_heads=4):
        return normal(8, 4 * 3), normal(8, num_kv_heads * 3), normal(8, num_kv_heads * 5), normal(4 * 5, 6)

    return draw


class TestSplitAndMerge:
    def test_each_head_gets_neighbouring_features(self, like):
        x = like([[0.0, 1, 2, 3, 4, 5], [10, 11, 12, 13, 14, 15]])
        heads = [[[0, 1], [10, 11]], [[2, 3], [12, 13]], [[4, 5], [14, 15]]]
        assert_array_equal(sa.split_heads(x, 3), heads)
        assert_array_equal(sa.merge_heads(like(heads)), x)

    @given(st.lists(st.integers(0, 3), max_size=3), st.integers(0, 4), st.integers(1, 4), st.integers(0, 3))
    def test_merging_undoes_splitting(self, like, batch, n, num_heads, d):
        x = like(np.random.default_rng(0).standard_normal((*batch, n, num_heads * d)))
        heads = sa.split_heads(x, num_heads)
        assert heads.shape == (*batch, num_heads, n, d)
        assert_array_equal(sa.merge_heads(heads), x)


def as_arrays(module):
    """The matrices and biases of a torch.nn.MultiheadAttention as arguments for ours."""
    if module._qkv_same_embed_dim:
        q, k, v = module.in_proj_weight.chunk(3)
    else:
        q, k, v = module.q_proj_weight, module.k_proj_weight, module.v_proj_weight
    biases = dict(zip(("b_q", "b_k", "b_v"), module.in_proj_bias.chunk(3), strict=True))
    matrices = [w.detach().numpy().T for w in (q, k, v, module.out_proj.weight)]
    return matrices, {
        name: b.detach().numpy() for name, b in (biases | {"b_o": module.out_proj.bias}).items()
    }


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-6)])
@pytest.mark.parametrize("d_memory", [None, 8, 10], ids=["self", "cross", "cross, another width"])
@pytest.mark.parametrize("masked", [False, True])
class TestSameAsTorch:
    @pytest.fixture
    def module(self, d_memory):
        torch.manual_seed(0)
        module = torch.nn.MultiheadAttention(8, 4, kdim=d_memory, vdim=d_memory, batch_first=True).double()
        torch.nn.init.normal_(module.in_proj_bias)
        torch.nn.init.normal_(module.out_proj.bias)
        return module

    def test_module(self, like, normal, module, d_memory, masked, dtype, tolerance):
        x = normal(2, 5, 8)
        memory = normal(2, 6, d_memory) if d_memory else x
        kv_len = memory.shape[1]
        mask, torchs = None, {}
        if masked:  # True means the opposite there
            mask = sa.causal & sa.padding([kv_len, 2])
            torchs["attn_mask"] = torch.ones(5, kv_len, dtype=torch.bool).triu(1)
            torchs["key_padding_mask"] = torch.arange(kv_len) >= torch.tensor([[kv_len], [2]])
        q, m = torch.tensor(x), torch.tensor(memory)
        expected = module(q, m, m, need_weights=False, **torchs)[0].detach()

        matrices, biases = as_arrays(module)
        arrays = [like(array, dtype) for array in (x, memory, *matrices)]
        biases = {name: like(bias, dtype) for name, bias in biases.items()}
        output = sa.multi_head_attention(*arrays, num_heads=4, mask=mask, **biases)
        assert output.dtype == arrays[0].dtype
        assert_allclose(output, expected, atol=tolerance, rtol=tolerance)


class TestMultiHeadAttention:
    def test_one_head_that_projects_nothing_is_attention(self, like, normal):
        x, identity = like(normal(5, 4)), like(np.eye(4))
        output = sa.multi_head_attention(x, x, *[identity] * 4, num_heads=1)
        assert_allclose(output, sa.attention(x, x, x), atol=1e-12)

    @pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
    def test_shared_heads_are_heads_with_equal_matrices(self, like, normal, weights, num_kv_heads):
        x, memory, (w_q, w_k, w_v, w_o) = normal(2, 5, 8), normal(2, 6, 8), weights(num_kv_heads)
        shared = map(like, (x, memory, w_q, w_k, w_v, w_o))
        k = np.hstack([w for w in np.split(w_k, num_kv_heads, axis=1) for _ in range(4 // num_kv_heads)])
        v = np.hstack([w for w in np.split(w_v, num_kv_heads, axis=1) for _ in range(4 // num_kv_heads)])
        own = map(like, (x, memory, w_q, k, v, w_o))
        output = sa.multi_head_attention(*shared, num_heads=4, num_kv_heads=num_kv_heads)
        assert output.shape == (2, 5, 6)
        assert_allclose(output, sa.multi_head_attention(*own, num_heads=4), atol=1e-12)

    def test_heads_add_up(self, normal, weights):
        x, memory, matrices = normal(5, 8), normal(6, 8), weights()
        heads = zip(*(np.split(w, 4, axis=1) for w in matrices[:3]), np.split(matrices[3], 4), strict=True)
        one_by_one = sum(sa.multi_head_attention(x, memory, *head, num_heads=1) for head in heads)
        assert_allclose(sa.multi_head_attention(x, memory, *matrices, num_heads=4), one_by_one, atol=1e-12)

    def test_options_reach_the_heads(self, like, normal, weights):
        x, memory, (w_q, w_k, w_v, w_o) = normal(5, 8), normal(6, 8), weights()

        def output(w_q, **options):
            arrays = map(like, (x, memory, w_q, w_k, w_v, w_o))
            return np.asarray(sa.multi_head_attention(*arrays, num_heads=4, **options))

        assert_allclose(output(w_q, scale=0.1), output(0.1 * 3**0.5 * w_q), atol=1e-12)
        uniform = np.broadcast_to(memory.mean(0) @ w_v @ w_o, (5, 6))
        assert_allclose(output(w_q, softcap=1e-9), uniform, atol=1e-6)
        last = np.broadcast_to(memory[-1] @ w_v @ w_o, (5, 6))
        only_last = np.where(np.arange(6) == 5, 0, -np.inf)[None, :]
        assert_allclose(output(w_q, bias=like(only_last)), last, atol=1e-12)
        assert_allclose(output(w_q, mask=sa.Mask(lambda i, j: j == 5)), last, atol=1e-12)

    def test_a_query_that_may_attend_nowhere_leaves_the_output_bias(self, like, normal, weights):
        x, b_o = normal(3, 8), normal(6)
        arrays = map(like, (x, x, *weights()))
        output = sa.multi_head_attention(*arrays, num_heads=4, mask=sa.padding(0), b_o=like(b_o))
        assert_allclose(output, np.broadcast_to(b_o, (3, 6)), atol=1e-12)

    def test_without_positions_the_order_of_tokens_is_unknown_to_it(self, normal, weights):
        x, matrices, order = normal(5, 8), weights(), [3, 1, 4, 0, 2]
        output = sa.multi_head_attention(x, x, *matrices, num_heads=4)
        reordered = sa.multi_head_attention(x[order], x[order], *matrices, num_heads=4)
        assert_allclose(reordered, output[order], atol=1e-12)

    def test_matrices_may_have_leading_axes(self, like, normal, weights):
        x, b_v = normal(3, 5, 8), normal(3, 1, 20)
        stacks = [np.stack(three) for three in zip(weights(), weights(), weights(), strict=True)]
        output = sa.multi_head_attention(*map(like, (x, x, *stacks)), num_heads=4, b_v=like(b_v))
        for seed in range(3):
            arrays = map(like, (x[seed], x[seed], *(stack[seed] for stack in stacks)))
            alone = sa.multi_head_attention(*arrays, num_heads=4, b_v=like(b_v[seed, 0]))
            assert_allclose(output[seed, ...], alone, atol=1e-12)

    def test_gradients_where_a_query_may_attend_nowhere(self, normal):
        shapes = [(2, 4), (3, 4), (4, 4), (4, 2), (4, 2), (4, 3), (4,), (2,), (2,), (3,)]

        def layer(x, memory, w_q, w_k, w_v, w_o, b_q, b_k, b_v, b_o):
            options = {"num_heads": 2, "num_kv_heads": 1, "mask": sa.Mask(lambda i, j: j < i)}
            biases = {"b_q": b_q, "b_k": b_k, "b_v": b_v, "b_o": b_o}
            return sa.multi_head_attention(x, memory, w_q, w_k, w_v, w_o, **biases, **options)

        assert torch.autograd.gradcheck(layer, [torch.tensor(normal(*s), requires_grad=True) for s in shapes])


ARRAYS = ["x", "memory", "w_q", "w_k", "w_v", "w_o", "b_q", "b_k", "b_v", "b_o"]
SHAPES = {"x": (5, 8), "memory": (6, 8), "w_q": (8, 12), "w_k": (8, 12), "w_v": (8, 20), "w_o": (20, 6)}


@pytest.mark.usefixtures("unchecked")
class TestErrors:
    @pytest.mark.parametrize(
        ("num_heads", "shape"), [(4, (2, 6)), (0, (2, 6)), (-2, (2, 6)), (2, (6,)), (1, ())]
    )
    def test_heads_that_do_not_divide(self, like, num_heads, shape):
        x = like(np.ones(shape))
        message = f"{num_heads} heads must divide the last axis of (..., n, width); got {describe(x=x)}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            sa.split_heads(x, num_heads)

    def test_too_few_axes_to_merge(self, like):
        x = like(np.ones((2, 6)))
        message = f"expected (..., h, n, d); got {describe(x=x)}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            sa.merge_heads(x)

    def test_integers(self, like):
        for function, x in [
            (partial(sa.split_heads, num_heads=2), like(np.ones((2, 6)), "int64")),
            (sa.merge_heads, like(np.ones((2, 2, 6)), "int64")),
        ]:
            message = f"expected real floating-point arrays; got {describe(x=x)}"
            with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
                function(x)

    @pytest.mark.parametrize(
        ("name", "shape", "given"),
        [
            ("w_q", (7, 12), (5, 8)),
            ("w_k", (7, 12), (6, 8)),
            ("w_v", (20,), (6, 8)),
            ("w_o", (19, 6), (5, 20)),
            ("b_q", (11,), (5, 8)),
            ("b_k", (1,), (6, 8)),
            ("b_v", (4, 19), (6, 8)),
            ("b_o", (1,), (5, 20)),
        ],
    )
    def test_projections_that_do_not_fit(self, like, name, shape, given):
        arrays = {name: like(np.ones(shape)) for name, shape in (SHAPES | {name: shape}).items()}
        w, b = f"w_{name[-1]}", f"b_{name[-1]}"
        message = (
            f"{w} needs as many rows as its input is wide, {b} as many entries as {w} has columns; "
            f"got {describe(**{'input': like(np.ones(given)), w: arrays[w], b: arrays.get(b)})}"
        )
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            sa.multi_head_attention(**arrays, num_heads=4)

    @pytest.mark.parametrize(
        ("changes", "seen"),
        [
            ({"w_k": (8, 16)}, r"got q \w+ float64 \(4, 5, 3\), k \w+ float64 \(4, 6, 4\)"),
            ({"w_q": (8, 13)}, r"4 heads must divide .*\(5, 13\)"),
            ({"w_k": (8, 9), "w_v": (8, 15)}, r"4 heads must divide .*\(6, 9\)"),
        ],
    )
    def test_heads_that_do_not_fit(self, like, changes, seen):
        arrays = {name: like(np.ones(shape)) for name, shape in (SHAPES | changes).items()}
        with pytest.raises(ValueError, match=seen):
            sa.multi_head_attention(**arrays, num_heads=4)

    def test_key_heads_that_do_not_divide_the_query_heads(self, like, weights):
        arrays = map(like, (np.ones((5, 8)), np.ones((5, 8)), *weights(num_kv_heads=3)))
        with pytest.raises(
            ValueError, match=r"must divide the query heads; got q .*\(4, 5, 3\), k .*\(3, 5, 3\)"
        ):
            sa.multi_head_attention(*arrays, num_heads=4, num_kv_heads=3)

    @pytest.mark.parametrize("name", ARRAYS)
    def test_strangers(self, like, name):
        arguments = dict.fromkeys(ARRAYS, like(np.eye(4))) | {name: [0.0]}
        message = f"expected arrays of one library; got {describe(**arguments)}"
        with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
            sa.multi_head_attention(**arguments, num_heads=2)


def test_vmap_over_many_models_is_the_loop():
    torch.manual_seed(0)
    x, w = torch.randn(3, 5, 8), torch.randn(3, 4, 8, 8)

    def one(x, w):
        return sa.multi_head_attention(x, x, *w, num_heads=2, mask=sa.causal)

    expected = torch.stack([one(*model) for model in zip(x, w, strict=True)])
    torch.testing.assert_close(torch.func.vmap(one)(x, w), expected)
