"""Decoding with a cache against the full pass."""

import copy
import gc
import io
import pickle
import weakref
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layers import chunks, close, every_position, layer, numbers
from torch.testing import assert_close

import selfattn as sa
from selfattn.nn import KVCache

MASKS = {
    "causal": sa.causal,
    "window": sa.sliding_window(2),
    "causal and padding": sa.causal & sa.padding([9, 4]),
    "some": sa.causal & ~sa.Mask(lambda i, j: (i + 2 * j) % 3 == 0),
}


class TestCache:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
    @every_position
    @given(
        st.sampled_from([*MASKS]),
        st.booleans(),
        st.lists(st.integers(1, 3), max_size=3),
        st.sampled_from([1, 2, 4]),
        st.sampled_from([None, torch.nn.RMSNorm]),
    )
    @torch.no_grad()
    def test_same_as_the_full_pass(self, positions, dtype, mask, as_tensor, sizes, num_kv_heads, qk_norm):
        mask = MASKS[mask]
        ours = layer(positions, dtype, num_kv_heads=num_kv_heads, qk_norm=qk_norm)
        x, cache = 0.3 * numbers(2, 9, 8, dtype=dtype), KVCache()
        outputs = []
        for new in chunks(x, sizes):
            start, end = cache.length, cache.length + new.shape[-2]
            rows = mask.dense(9, 9, like=x)[..., start:end, :end] if as_tensor else mask
            outputs.append(ours(new, mask=rows, cache=cache))
            assert cache.length == end
        assert_close(torch.cat(outputs, dim=-2), ours(x, mask=mask), **close[dtype])

    @every_position
    @torch.no_grad()
    def test_a_token_at_a_time_needs_no_mask(self, positions):
        ours, x, cache = layer(positions), numbers(2, 9, 8), KVCache()
        outputs = [ours(token, cache=cache) for token in x.split(1, dim=-2)]
        assert_close(torch.cat(outputs, dim=-2), ours(x, mask=sa.causal), **close[x.dtype])

    @pytest.mark.parametrize("mask", [None, sa.Mask(lambda i, j: (i + j) % 3 > 0)], ids=["", "mask"])
    @torch.no_grad()
    def test_cross_attention_projects_its_memory_once(self, mask):
        ours, cache, projections = layer(d_memory=10, num_kv_heads=2, qk_norm=torch.nn.RMSNorm), KVCache(), []
        for linear in (ours.key, ours.value):
            linear.register_forward_hook(lambda linear, inputs, output: projections.append(linear))
        x, memory = numbers(2, 9, 8), numbers(2, 6, 10, seed=1)
        outputs = [ours(new, memory, mask=mask, cache=cache) for new in chunks(x, [4, 1, 1])]
        assert projections == [ours.key, ours.value]
        assert_close(torch.cat(outputs, dim=-2), ours(x, memory, mask=mask), **close[x.dtype])

    @torch.no_grad()
    def test_keeps_the_shared_heads_only_and_moves_them_rarely(self):
        ours, cache = layer(num_kv_heads=2, qk_norm=torch.nn.RMSNorm), KVCache()
        nothing, places = torch.empty(3, 2, 0, 2, dtype=torch.float64), []
        for token in numbers(100, 3, 1, 8):
            ours(token, cache=cache)
            k, v = cache.extended(nothing, nothing)
            assert k.shape == v.shape == (3, 2, cache.length, 2)
            places.append((k.data_ptr(), v.data_ptr()))
        assert sum(a != b for a, b in pairwise(places)) <= 8

    @pytest.mark.parametrize("done", [0, 5])
    @torch.no_grad()
    def test_a_call_that_fails_leaves_it_as_it_was(self, done):
        ours, x, cache = layer("rotary"), numbers(2, 9, 8), KVCache()
        if done:
            ours(x[:, :done], mask=sa.causal, cache=cache)
        failing = ours if done else layer(num_kv_heads=1)  # another layer: the cache must not stay its own
        with pytest.raises(ValueError, match="mask must broadcast"):
            failing(x[:, done : done + 3], mask=torch.ones(3, 2, dtype=torch.bool), cache=cache)
        hook = failing.output.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            failing(x[:, done:], cache=cache)
        hook.remove()
        assert cache.length == done
        expected = ours(x, mask=sa.causal)[:, done:]
        assert_close(ours(x[:, done:], mask=sa.causal, cache=cache), expected)

    @torch.no_grad()
    def test_a_call_that_fails_leaves_no_memory(self):
        ours, x, memory, cache = layer(), numbers(2, 9, 8), numbers(2, 6, 8, seed=1), KVCache()
        with pytest.raises(ValueError, match="mask must broadcast"):
            ours(x, memory + 1, mask=torch.ones(9, 5, dtype=torch.bool), cache=cache)
        assert_close(ours(x, memory, cache=cache), ours(x, memory))

    def test_nobody_else_sets_its_length(self):
        with pytest.raises(AttributeError):
            KVCache().length = 3

    def test_keeps_no_layer_alive(self):
        ours, cache = layer(), KVCache()
        ours(numbers(2, 8), cache=cache)
        gone = weakref.ref(ours)
        del ours
        gc.collect()
        assert gone() is None
        with pytest.raises(ValueError, match="each layer needs a cache of its own"):
            layer()(numbers(2, 8), cache=cache)


def saved(cache):
    file = io.BytesIO()
    torch.save(cache, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda cache: pickle.loads(pickle.dumps(cache)),
    "torch.save": saved,
}
MODES = {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference": torch.inference_mode}


@pytest.mark.parametrize("first", MODES)
@pytest.mark.parametrize("then", MODES)
class TestModes:
    """The cache is filled in one of torch's modes and used in another."""

    def test_tokens(self, first, then):
        ours, x, cache = layer("rotary"), numbers(2, 9, 8), KVCache()
        ours.requires_grad_(False).query.requires_grad_()  # a graph holds keys that need no gradient
        expected, outputs = ours(x, mask=sa.causal), []
        for start, end, mode in [(0, 3, first), (3, 4, first), (4, 5, then), (5, 6, then), (6, 9, first)]:
            with MODES[mode]():
                outputs.append((mode, start, end, ours(x[:, start:end], mask=sa.causal, cache=cache)))
        for mode, start, end, output in outputs:
            assert_close(output.detach(), expected[:, start:end].detach())
            if mode == "grad":
                (gradient,) = torch.autograd.grad(output.square().sum(), [ours.query.weight])
                alone = expected[:, start:end].square().sum()
                assert_close(gradient, *torch.autograd.grad(alone, [ours.query.weight], retain_graph=True))

    def test_a_memory(self, first, then):
        ours, x, memory, cache = layer(), numbers(2, 9, 8), numbers(2, 6, 8, seed=1), KVCache()
        with MODES[first]():
            begun = ours(x[:, :4], memory, cache=cache)
        with MODES[then]():
            output = ours(x[:, 4:], memory, cache=cache)
        expected = ours(x, memory)
        assert_close(torch.cat([begun, output], dim=1).detach(), expected.detach())
        if then == "grad":
            (gradient,) = torch.autograd.grad(output.square().sum(), [ours.query.weight])
            assert_close(gradient, *torch.autograd.grad(expected[:, 4:].square().sum(), [ours.query.weight]))

    @pytest.mark.parametrize("copied", COPIES)
    @pytest.mark.parametrize("memory", [None, numbers(2, 6, 8, seed=1), numbers(2, 6, 8) * torch.nan])
    def test_a_copy_goes_its_own_way(self, first, then, copied, memory):
        ours, x, cache = layer("rotary" if memory is None else "none"), numbers(2, 9, 8), KVCache()
        with MODES[first]():
            for start, end in [(0, 5), (5, 6)]:  # leaves room for more
                ours(x[:, start:end], memory, mask=sa.causal, cache=cache)
            other = COPIES[copied](cache)
        with MODES[then]():
            assert other.length == 6
            copy.deepcopy(ours)(x[:, 8:], memory, cache=other)  # with a copy of the layer, if need be
            output = ours(x[:, 6:], memory, mask=sa.causal, cache=cache)
        assert (cache.length, other.length) == (9, 7)
        expected = ours(x, memory, mask=sa.causal)[:, 6:]
        assert_close(output.detach(), expected.detach(), equal_nan=True)


class TestGradients:
    def test_are_those_of_the_full_pass(self):
        ours, x = layer("relative", num_kv_heads=2, qk_norm=torch.nn.RMSNorm), numbers(2, 6, 8)
        x.requires_grad_()
        inputs, cache = [x, *ours.parameters()], KVCache()
        outputs = torch.cat([ours(new, mask=sa.causal, cache=cache) for new in chunks(x, [3, 1, 1])], dim=1)
        gradients = torch.autograd.grad(outputs.square().sum(), inputs)
        expected = torch.autograd.grad(ours(x, mask=sa.causal).square().sum(), inputs)
        assert_close(gradients, expected)

    def test_of_a_memory_are_those_of_the_full_pass(self):
        ours, x, memory = layer(d_memory=10), numbers(2, 6, 8), numbers(2, 5, 10).requires_grad_()
        inputs, cache = [memory, *ours.parameters()], KVCache()
        outputs = torch.cat([ours(new, memory, cache=cache) for new in chunks(x, [3, 1, 1])], dim=1)
        gradients = torch.autograd.grad(outputs.square().sum(), inputs)
        expected = torch.autograd.grad(ours(x, memory).square().sum(), inputs)
        assert_close(gradients, expected)

    def test_what_was_cached_without_them_is_constant(self):
        ours, x, cache = layer(), numbers(6, 8), KVCache()
        with torch.no_grad():
            ours(x[:5], cache=cache)
        ours(x[5:], cache=cache).sum().backward()
        k, v = ours.key(x), ours.value(x)
        k, v = (torch.cat([y[:5].detach(), y[5:]]).unflatten(-1, (4, 2)).transpose(0, 1) for y in (k, v))
        q = ours.query(x[5:]).unflatten(-1, (4, 2)).transpose(0, 1)
        output = ours.output(sa.attention(q, k, v).transpose(0, 1).flatten(-2))
        assert_close(ours.key.weight.grad, *torch.autograd.grad(output.sum(), [ours.key.weight]))


@pytest.mark.usefixtures("unchecked")
class TestErrors:
    @torch.no_grad()
    def test_caches_that_do_not_fit(self):
        ours, x, memory, cache = layer(), numbers(2, 5, 8), numbers(2, 6, 8), KVCache()
        ours(x, cache=cache)
        with pytest.raises(ValueError, match=r"cached .*64 \(2, 4, 5, 2\), k .*64 \(3, 4, 1, 2\)"):
            ours(numbers(3, 1, 8), cache=cache)
        with pytest.raises(ValueError, match=r"cached torch float64 .*, k torch float32 \(2, 4, 5, 2\)"):
            ours.float()(x.float(), cache=cache)
        ours.double()
        with pytest.raises(ValueError, match=r"this memory's; got memory torch float64 \(2, 6, 8\)"):
            ours(x, memory, cache=cache)
        cache = KVCache()
        ours(x, memory, cache=cache)
        with pytest.raises(ValueError, match=r"this memory's; got memory .*, cached .* \(2, 6, 8\)"):
            ours(x, memory + 1, cache=cache)
        with pytest.raises(ValueError, match=r"this memory's; got memory .*, cached .* \(2, 6, 8\)"):
            ours(x, memory[:, :5], cache=cache)
        with pytest.raises(
            ValueError, match=r"this memory's; got memory .*\(2, 6, 8\), cached .* \(2, 6, 8\)"
        ):
            ours(x, memory[..., :1].expand(2, 6, 8), cache=cache)
        ours(x, memory.clone(), cache=cache)
        with pytest.raises(ValueError, match=r"cached torch float64 \(2, 6, 8\), k torch .*\(2, 4, 5, 2\)"):
            ours(x, cache=cache)

    @pytest.mark.parametrize("memory", [(), (numbers(2, 6, 8),)], ids=["self", "memory"])
    @torch.no_grad()
    def test_one_cache_for_two_layers(self, memory):
        ours, other, x, cache = layer(), layer(num_kv_heads=2), numbers(2, 6, 8), KVCache()
        for start, end in [(0, 4), (4, 5)]:  # leaves room for more
            ours(x[:, start:end], *memory, cache=cache)
        n, options = 6 if memory else 5, r"num_heads=4, num_kv_heads=2, dropout=0\.0"
        seen = rf"has filled, cached torch float64 \(2, 4, {n}, 2\), and a layer of {options}$"
        with pytest.raises(
            ValueError, match=f"each layer needs a cache of its own; got one that another {seen}"
        ):
            other(x, *memory, cache=cache)
        assert cache.length == 5

    @torch.no_grad()
    def test_a_copy_for_a_layer_of_other_heads(self):
        x, cache = numbers(2, 5, 8), KVCache()
        layer()(x, cache=cache)
        with pytest.raises(
            ValueError, match=r"grows by tokens alone.* cached .*\(2, 4, 5, 2\), k .*\(2, 2, 5, 2\)"
        ):
            layer(num_kv_heads=2)(x, cache=copy.deepcopy(cache))
