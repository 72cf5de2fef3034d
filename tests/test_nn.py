"""The layer against published models, and what torch's machinery asks of it."""

import copy
import io
import re
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layers import POSITIONS, chunks, close, every_position, exact, filled, layer, numbers
from torch.func import functional_call, stack_module_state, vmap
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import selfattn as sa
from selfattn.nn import Alibi, KVCache, MultiHeadAttention, RelativeBias, Rotary
from selfattn.positions import rotary


class TestSameAsPublishedModels:
    """Random small layers of `transformers`, nothing downloaded."""

    causal = torch.full((7, 7), -torch.inf, dtype=torch.float64).triu(1)[None, None]

    @staticmethod
    def take(ours, theirs, names):
        for ours_name, theirs_name in names.items():
            getattr(ours, ours_name).weight.data.copy_(getattr(theirs, theirs_name).weight)
        return ours

    def test_llama(self):
        from transformers import LlamaConfig
        from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding

        config = LlamaConfig(
            hidden_size=16, num_attention_heads=4, num_key_value_heads=2, attn_implementation="eager"
        )
        theirs, x = filled(LlamaAttention(config, 0)), numbers(2, 7, 16)
        angles = LlamaRotaryEmbedding(config).double()(x, torch.arange(7)[None])
        expected, weights = theirs(x, angles, self.causal)
        ours = MultiHeadAttention(16, 4, num_kv_heads=2, bias=False, positions=Rotary()).double()
        self.take(ours, theirs, {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"})
        assert_close(ours(x, mask=sa.causal), expected, atol=1e-6, rtol=1e-6)  # its softmax is float32
        assert_close(ours.attention_weights(x, mask=sa.causal), weights, atol=1e-6, rtol=1e-6)

    def test_qwen3_normalizes_queries_and_keys(self):
        from transformers import Qwen3Config
        from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3RotaryEmbedding

        config = Qwen3Config(
            hidden_size=16,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=4,
            attn_implementation="eager",
            rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        )
        theirs, x = filled(Qwen3Attention(config, 0)), numbers(2, 7, 16)
        angles = Qwen3RotaryEmbedding(config).double()(x, torch.arange(7)[None])
        expected, weights = theirs(x, angles, self.causal)
        norm = partial(torch.nn.RMSNorm, eps=1e-6)
        ours = MultiHeadAttention(
            16, 4, num_kv_heads=2, bias=False, positions=Rotary(base=500.0), qk_norm=norm
        ).double()
        names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}
        self.take(ours, theirs, names | {"query_norm": "q_norm", "key_norm": "k_norm"})
        assert_close(ours(x, mask=sa.causal), expected, atol=1e-6, rtol=1e-6)
        assert_close(ours.attention_weights(x, mask=sa.causal), weights, atol=1e-6, rtol=1e-6)

    @pytest.mark.parametrize("bidirectional", [True, False])
    def test_t5(self, bidirectional):
        from transformers import T5Config
        from transformers.models.t5.modeling_t5 import T5Attention

        config = T5Config(
            d_model=16,
            d_kv=4,
            num_heads=4,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=20,
            is_decoder=not bidirectional,
            dropout_rate=0.0,
            attn_implementation="eager",
        )
        theirs, x = filled(T5Attention(config, True, layer_idx=0)), numbers(2, 30, 16)
        table = RelativeBias(4, num_buckets=8, max_distance=20, bidirectional=bidirectional)
        ours = MultiHeadAttention(16, 4, bias=False, positions=table).double()
        self.take(ours, theirs, {"query": "q", "key": "k", "value": "v", "output": "o"})
        ours.query.weight.data *= 2  # it has no 1/sqrt(d_k)
        table.table.data.copy_(theirs.relative_attention_bias.weight.T)
        assert_close(ours(x), theirs(x)[0], atol=1e-6, rtol=1e-6)


class TestDropout:
    @pytest.fixture
    def bare(self):
        """A layer whose output is its weights: one head, and values that name their token."""
        ours = filled(MultiHeadAttention(8, 1, bias=False, dropout=0.3))
        for linear in (ours.value, ours.output):
            torch.nn.init.eye_(linear.weight)
        return ours

    def test_zeroes_weights_and_scales_the_others(self, bare):
        torch.manual_seed(0)
        x, memory = numbers(4000, 8), torch.eye(8, dtype=torch.float64)
        weights, dropped = bare.attention_weights(x, memory)[0], bare(x, memory)
        kept = dropped != 0
        assert_close(dropped[kept], weights[kept] / 0.7, **close[x.dtype])
        assert abs(kept.double().mean() - 0.7) < 5 * (0.3 * 0.7 / kept.numel()) ** 0.5
        assert not torch.equal(bare(x, memory), dropped)

    def test_only_while_training(self, bare):
        x = numbers(5, 8)
        exact(bare.eval()(x), bare(x))
        assert_close(bare(x), bare.attention_weights(x)[0] @ x, **close[x.dtype])
        assert not torch.equal(bare.train()(x), bare.eval()(x))
        exact(bare.train().attention_weights(x), bare.eval().attention_weights(x))
        never = layer(dropout=0.0)
        exact(never.train()(x), never.eval()(x))

    def test_all_else_stays(self):
        ours, x = layer("rotary", num_kv_heads=2, dropout=1e-12), numbers(2, 9, 8)
        mask = sa.causal & sa.padding([9, 4])
        assert_close(ours.train()(x, mask=mask), ours.eval()(x, mask=mask), **close[x.dtype])

    def test_each_head_for_itself(self):
        torch.manual_seed(0)
        ours, x = layer(bias=False, dropout=0.5), torch.ones(4000, 1, 8, dtype=torch.float64)
        torch.nn.init.eye_(ours.output.weight)
        alive = (ours(x).unflatten(-1, (4, 2)) != 0).all(-1).squeeze(1).double()  # each head has one weight
        assert torch.corrcoef(alive.T).fill_diagonal_(0).abs().max() < 0.1


class TestProperties:
    @given(st.permutations(range(6)), st.sampled_from([1, 2, 4]))
    def test_without_positions_the_order_is_unknown(self, order, num_kv_heads):
        ours, x = layer(num_kv_heads=num_kv_heads, qk_norm=torch.nn.LayerNorm), numbers(2, 6, 8)
        assert_close(ours(x[:, order]), ours(x)[:, order], **close[x.dtype])

    @pytest.mark.parametrize("positions", ["rotary", "alibi", "relative"])
    def test_with_positions_it_is_known(self, positions):
        ours, x, order = layer(positions), numbers(2, 6, 8), [0, 1, 2, 4, 3, 5]
        assert (ours(x[:, order]) - ours(x)[:, order]).abs().amax() > 1e-3

    @every_position
    @pytest.mark.parametrize("training", [True, False])
    def test_no_leak_from_the_future(self, positions, training):
        ours = layer(positions, num_kv_heads=2, dropout=0.2).train(training)
        x = numbers(2, 6, 8).requires_grad_()
        ours(x, mask=sa.causal)[:, 2].sum().backward()
        assert (x.grad[:, 3:] == 0).all()
        assert (x.grad[:, :3] != 0).all()

    def test_a_query_that_may_attend_nowhere_gets_the_output_bias(self):
        ours, x = layer(), numbers(2, 5, 8)
        output = ours(x, mask=sa.padding([5, 0]))
        assert_close(output[1], ours.output.bias.expand(5, 8), **close[x.dtype])
        assert_close(output[0], ours(x[0]), **close[x.dtype])

    @every_position
    def test_the_weights_are_those_of_the_output(self, positions):
        ours, x = layer(positions, num_kv_heads=2), numbers(2, 5, 8)
        weights = ours.attention_weights(x, mask=sa.causal)
        assert weights.shape == (2, 4, 5, 5)
        assert_close(weights.sum(-1), torch.ones(2, 4, 5, dtype=x.dtype))
        values = ours.value(x).unflatten(-1, (2, 2)).repeat_interleave(2, dim=-2)  # batch, n, head, d_v
        gathered = torch.einsum("bhij,bjhd->bihd", weights, values)
        assert_close(ours(x, mask=sa.causal), ours.output(gathered.flatten(-2)), **close[x.dtype])

    def test_any_leading_axes(self):
        ours, x, memory = layer("none"), numbers(2, 3, 5, 8), numbers(6, 8, seed=1)
        assert_close(ours(x)[1, 2], ours(x[1, 2]), **close[x.dtype])
        assert_close(ours(x, memory)[1, 2], ours(x[1, 2], memory), **close[x.dtype])

    def test_layers_may_share_a_table(self):
        table = RelativeBias(4)
        layers = torch.nn.ModuleList(MultiHeadAttention(8, 4, positions=table) for _ in range(3))
        assert sum(parameter is table.table for parameter in layers.parameters()) == 1
        table.table.data.fill_(1.0)
        assert all((layer.positions.table == 1).all() for layer in layers)

    def test_scores_stay_bounded_with_normalized_queries_and_keys(self):
        x = 1e4 * numbers(2, 5, 8)
        norm = partial(torch.nn.RMSNorm, elementwise_affine=False)
        ours = MultiHeadAttention(8, 4, qk_norm=norm).double()
        most = torch.tensor(2**0.5, dtype=torch.float64)  # of |q·k| / sqrt(d_k), with |q| = |k| = sqrt(d_k)
        ratio = ours.attention_weights(x)
        assert (ratio.amax(-1) / ratio.amin(-1)).max() <= torch.exp(2 * most) + 1e-9


class TestPositions:
    def test_rotary_options(self):
        x, options = numbers(2, 4, 6, 8), {"base": 50.0, "interleaved": True, "rotary_dim": 6}
        exact(Rotary(**options).turned(x, 3), rotary(x, torch.arange(3, 9), **options))

    @pytest.mark.parametrize("positions", ["alibi", "relative"])
    def test_biases_are_of_the_queries_type_with_the_queries_last(self, positions):
        positions, q, k = filled(POSITIONS[positions]()), numbers(4, 2, 8).half(), numbers(2, 5, 8).half()
        bias = positions.bias(q, k)
        assert (bias.dtype, bias.shape) == (torch.float16, (4, 2, 5))
        exact(bias, positions.bias(numbers(4, 5, 8).half(), k)[:, 3:])


class TestNotFinite:
    """What is not a number shows where it may be attended to, and nowhere else."""

    @pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
    @pytest.mark.parametrize("num_kv_heads", [4, 2])
    @pytest.mark.parametrize("training", [True, False])
    def test_forbidden_tokens_of_a_memory(self, value, num_kv_heads, training):
        ours = layer(num_kv_heads=num_kv_heads, d_memory=10).train(training)
        x, memory = numbers(2, 5, 8).requires_grad_(), numbers(2, 7, 10)
        spoilt, mask = memory.clone(), sa.padding([5, 3])
        spoilt[0, 5:], spoilt[1, 3:5], spoilt[1, 5:, 2] = value, value, value
        inputs = [x, *ours.parameters()]
        memory.requires_grad_(), spoilt.requires_grad_()
        expected, output = ours(x, memory, mask=mask), ours(x, spoilt, mask=mask)
        assert_close(output, expected)
        gradients = torch.autograd.grad(output.square().sum(), [spoilt, *inputs])
        assert_close(gradients, torch.autograd.grad(expected.square().sum(), [memory, *inputs]))
        exact(ours.attention_weights(x, spoilt, mask=mask), ours.attention_weights(x, memory, mask=mask))

    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    @pytest.mark.parametrize("cached", [True, False])
    def test_allowed_tokens_of_a_memory(self, value, cached):
        ours, x, memory = layer(), numbers(2, 5, 8), numbers(2, 6, 8, seed=1)
        memory[0, 2, 7] = value
        output = ours(x, memory, cache=KVCache() if cached else None)
        assert output[0].isnan().all()
        assert output[1].isfinite().all()


class TestParameters:
    def test_start_so_that_queries_keys_and_values_have_variance_one(self):
        torch.manual_seed(0)
        ours = MultiHeadAttention(256, 4, num_kv_heads=2, d_memory=96)
        shapes = {"query": (256, 256), "key": (128, 96), "value": (128, 96), "output": (256, 256)}
        for name, (d_out, d_in) in shapes.items():
            linear = getattr(ours, name)
            assert linear.weight.shape == (d_out, d_in)
            assert abs(linear.weight.var() * d_in - 1) < 0.05
            assert (linear.bias == 0).all()
            assert abs(linear(torch.randn(500, d_in)).var() - 1) < 0.1

    def test_without_bias_there_is_none(self):
        assert {*MultiHeadAttention(8, 2, bias=False).state_dict()} == {
            f"{name}.weight" for name in ("query", "key", "value", "output")
        }

    @every_position
    def test_state_dict_and_deepcopy(self, positions):
        ours, x, file = layer(positions, qk_norm=torch.nn.RMSNorm), numbers(2, 5, 8), io.BytesIO()
        torch.save(ours.state_dict(), file)
        file.seek(0)
        fresh = MultiHeadAttention(8, 4, positions=POSITIONS[positions](), qk_norm=torch.nn.RMSNorm).double()
        fresh.load_state_dict(torch.load(file))
        twin = copy.deepcopy(ours)
        with torch.no_grad():
            exact(fresh(x), ours(x))
            before = twin(x)
            filled(ours).query.weight.zero_()
            exact(twin(x), before)

    def test_says_what_it_is(self):
        said = str(MultiHeadAttention(8, 4, num_kv_heads=2, dropout=0.1, positions=Alibi()))
        assert "num_heads=4, num_kv_heads=2, dropout=0.1" in said
        assert "(positions): Alibi()" in said


class TestTorchsMachinery:
    @every_position
    @pytest.mark.parametrize("qk_norm", [None, torch.nn.LayerNorm], ids=["", "qk_norm"])
    def test_gradcheck(self, positions, qk_norm):
        ours = layer(positions, num_kv_heads=2, qk_norm=qk_norm)
        names = [name for name, _ in ours.named_parameters()]

        def output(x, *parameters):
            mask = sa.Mask(lambda i, j: j < i)  # the first query may attend nowhere
            return functional_call(ours, dict(zip(names, parameters, strict=True)), x, {"mask": mask})

        parameters = [parameter.detach().requires_grad_() for parameter in ours.parameters()]
        assert torch.autograd.gradcheck(output, (numbers(3, 8).requires_grad_(), *parameters), fast_mode=True)

    @every_position
    @pytest.mark.parametrize("dropout", [0.0, 1e-12], ids=["", "dropout"])
    def test_many_seeds_at_once(self, positions, dropout):
        options = {"num_kv_heads": 2, "qk_norm": torch.nn.RMSNorm, "dropout": dropout}
        layers = [layer(positions, **options) for _ in range(3)]
        for scale, one in enumerate(layers, start=1):
            one.query.weight.data *= scale
        parameters, buffers = stack_module_state(layers)
        x, mask = numbers(3, 2, 5, 8), sa.causal & sa.padding([5, 3])

        def loss(parameters, x):
            return functional_call(layers[0], (parameters, buffers), x, {"mask": mask}).square().sum()

        losses = vmap(loss, randomness="different")(parameters, x)
        losses.sum().backward()
        for seed, one in enumerate(layers):
            alone = one(x[seed], mask=mask).square().sum()
            assert_close(losses[seed], alone)
            gradients = torch.autograd.grad(alone, [*one.parameters()])
            for (name, _), gradient in zip(one.named_parameters(), gradients, strict=True):
                assert_close(parameters[name].grad[seed], gradient)

    def test_many_memories_at_once(self):
        ours, x, memories = layer(), numbers(5, 8), numbers(3, 6, 8, seed=1)
        assert_close(vmap(lambda memory: ours(x, memory))(memories), ours(x, memories), **close[x.dtype])

    @every_position
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("training", [True, False])
    def test_half_precision(self, positions, dtype, training):
        options = {"num_kv_heads": 2, "qk_norm": torch.nn.RMSNorm, "dropout": 1e-12}
        whole, half = (layer(positions, kind, **options).train(training) for kind in (torch.float32, dtype))
        x = numbers(2, 5, 8, dtype=torch.float32)
        output = half(x.to(dtype), mask=sa.causal)
        assert output.dtype == half.attention_weights(x.to(dtype)).dtype == dtype
        assert_close(output.float(), whole(x, mask=sa.causal), rtol=0.05, atol=0.05)

    @every_position
    @pytest.mark.parametrize("qk_norm", [None, partial(torch.nn.LayerNorm, bias=False)], ids=["", "qk_norm"])
    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
    def test_autocast(self, positions, qk_norm, training, half):
        ours = layer(positions, torch.float32, num_kv_heads=2, qk_norm=qk_norm, dropout=1e-12)
        ours, x, cache = ours.train(training), numbers(2, 5, 8, dtype=torch.float32), KVCache()
        with torch.autocast("cpu", dtype=half):
            output = ours(x, mask=sa.causal)
            with torch.no_grad():
                decoded = torch.cat([ours(new, mask=sa.causal, cache=cache) for new in chunks(x, [3])], dim=1)
        output.sum().backward()
        assert output.dtype == decoded.dtype == half
        assert all(parameter.grad.dtype == torch.float32 for parameter in ours.parameters())
        tolerance = {"rtol": 0, "atol": 16 * torch.finfo(half).eps}
        assert_close(output.float(), ours(x, mask=sa.causal), **tolerance)
        assert_close(decoded, output, **tolerance)

    @pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
    def test_autocast_with_a_memory(self, half):
        ours, x = layer(dtype=torch.float32), numbers(2, 5, 8, dtype=torch.float32)
        memory, cache = numbers(2, 6, 8, seed=1, dtype=torch.float32), KVCache()
        with torch.autocast("cpu", dtype=half):
            output, cached = ours(x, memory), ours(x, memory, cache=cache)
        assert output.dtype == half
        exact(cached, output)
        assert_close(output.float(), ours(x, memory), rtol=0, atol=16 * torch.finfo(half).eps)

    @every_position
    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize("shape", [(0, 5, 8), (0, 3, 5, 8), (2, 0, 8), (0, 0, 8)])
    @pytest.mark.parametrize("masked", [False, True])
    def test_nothing_in_nothing_out(self, positions, training, shape, masked):
        ours = layer(positions, num_kv_heads=2, dropout=0.5).train(training)
        x, mask = numbers(*shape).requires_grad_(), sa.causal if masked else None
        output = ours(x, mask=mask)
        assert output.shape == shape
        output.sum().backward()
        assert x.grad.shape == shape
        gradients = [parameter.grad for parameter in ours.parameters() if parameter.grad is not None]
        assert len(gradients) >= 8
        assert not any(gradient.any() for gradient in gradients)
        assert ours.attention_weights(x, mask=mask).shape == (*shape[:-2], 4, shape[-2], shape[-2])

    def test_a_memory_of_nothing_gives_the_output_bias(self):
        ours, x = layer(), numbers(2, 5, 8)
        exact(ours(x, numbers(2, 0, 8)), ours.output.bias.expand(2, 5, 8))

    @pytest.mark.parametrize("training", [True, False])
    @torch.no_grad()
    def test_hooks_of_its_parts_are_called(self, training):
        ours, called = layer(qk_norm=torch.nn.RMSNorm, dropout=0.5).train(training), []
        for name, part in ours.named_children():
            part.register_forward_hook(lambda *_, name=name: called.append(name))
        ours(numbers(2, 5, 8))
        assert sorted(called) == ["key", "key_norm", "output", "query", "query_norm", "value"]

    @every_position
    @pytest.mark.parametrize("reentrant", [True, False])
    def test_recomputed_activations(self, positions, reentrant):
        ours, x = layer(positions, dropout=0.5), numbers(2, 5, 8).requires_grad_()
        inputs, outputs = [x, *ours.parameters()], []
        for call in (partial(checkpoint, partial(ours, mask=sa.causal), use_reentrant=reentrant), ours):
            torch.manual_seed(0)
            output = call(x) if call is not ours else call(x, mask=sa.causal)
            output.square().sum().backward()
            outputs.append([output.detach(), *(each.grad for each in inputs)])
            ours.zero_grad()
            x.grad = None
        exact(*outputs)

    @every_position
    @pytest.mark.parametrize("setting", ["float64", "bfloat16", "meta", "deterministic"])
    def test_what_is_set_for_all_of_torch_changes_nothing(self, positions, setting):
        ours, x = layer(positions, torch.float32, dropout=1e-12), numbers(2, 5, 8, dtype=torch.float32)
        expected, cache = [ours.train(mode)(x, mask=sa.causal) for mode in (True, False)], KVCache()
        try:
            if setting == "meta":
                torch.set_default_device("meta")
            elif setting == "deterministic":
                torch.use_deterministic_algorithms(True)  # fills new memory with NaN
            else:
                torch.set_default_dtype(getattr(torch, setting))
            outputs = [ours.train(mode)(x, mask=sa.causal) for mode in (True, False)]
            with torch.no_grad():
                decoded = torch.cat([ours(token, cache=cache) for token in x.split(1, dim=1)], dim=1)
        finally:
            torch.set_default_device(None)
            torch.use_deterministic_algorithms(False)
            torch.set_default_dtype(torch.float32)
        exact(outputs, expected)
        assert_close(decoded, expected[1])

    @every_position
    def test_on_the_meta_device(self, positions):
        x = torch.empty(2, 5, 8, device="meta")
        for training in (True, False):
            ours = layer(positions, dtype=torch.float32, dropout=0.5).to("meta").train(training)
            for mask in (None, sa.causal, sa.padding([3, 5])):
                assert (ours(x, mask=mask).shape, ours(x, mask=mask).device.type) == ((2, 5, 8), "meta")

    def test_another_process_computes_the_same(self, tmp_path):
        layers = [layer(positions, qk_norm=torch.nn.RMSNorm) for positions in POSITIONS]
        x = numbers(2, 5, 8)
        torch.save((layers, x), tmp_path / "layers")
        code = f"""
import torch
layers, x = torch.load({str(tmp_path / "layers")!r}, weights_only=False)
torch.save([ours(x) for ours in layers], {str(tmp_path / "outputs")!r})
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert_close(torch.load(tmp_path / "outputs"), [ours(x) for ours in layers])

    @every_position
    @pytest.mark.usefixtures("unchecked")  # to jit.trace, a length is a tensor
    @pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
    def test_traced_at_another_length(self, positions):
        ours, x = layer(positions, num_kv_heads=2, dropout=1e-12), numbers(2, 9, 8)
        traced = torch.jit.trace(ours, (x[:, :5],), check_trace=False)
        assert_close(traced(x), ours(x))

    def test_long_inputs_take_linear_memory(self, largest):
        ours, x = layer("rotary", torch.float32), numbers(2048, 8, dtype=torch.float32)
        with largest:
            ours(x, mask=sa.causal & sa.documents(np.arange(2048) // 100)).sum().backward()
        assert largest.entries <= 2048**2 / 8


@pytest.mark.usefixtures("unchecked")
class TestErrors:
    @pytest.mark.parametrize(
        ("num_heads", "num_kv_heads"), [(3, None), (4, 3), (0, None), (4, 0), (-2, None), (2, 4)]
    )
    def test_heads_that_do_not_divide(self, num_heads, num_kv_heads):
        kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        with pytest.raises(
            ValueError, match=f"got d_model=8, num_heads={num_heads}, num_kv_heads={kv_heads}"
        ):
            MultiHeadAttention(8, num_heads, num_kv_heads=num_kv_heads)

    @pytest.mark.parametrize(
        ("options", "seen"),
        [
            ({"d_model": 0}, "d_model=0, num_heads=4, num_kv_heads=4, d_memory=0"),
            ({"d_model": -8}, "d_model=-8, num_heads=4, num_kv_heads=4, d_memory=-8"),
            ({"d_memory": 0}, "d_model=8, num_heads=4, num_kv_heads=4, d_memory=0"),
        ],
    )
    def test_widths_of_nothing(self, options, seen):
        with pytest.raises(ValueError, match=f"got {seen}$"):
            MultiHeadAttention(**{"d_model": 8, "num_heads": 4} | options)

    @pytest.mark.parametrize("name", ["d_model", "num_heads", "num_kv_heads", "d_memory"])
    def test_widths_and_counts_that_are_no_integers(self, name):
        options = {"d_model": 8, "num_heads": 4, "num_kv_heads": 4, "d_memory": 8}
        options[name] /= 2
        seen = ", ".join(f"{name}={value}" for name, value in options.items())
        with pytest.raises(TypeError, match=f"^widths and counts are integers; got {seen}$"):
            MultiHeadAttention(**options)

    def test_numpys_integers_are_integers(self):
        ours = MultiHeadAttention(np.int64(8), np.uint8(4), num_kv_heads=np.int32(2), d_memory=np.int16(6))
        assert ours(torch.ones(5, 8), torch.ones(7, 6)).shape == (5, 8)

    @pytest.mark.parametrize("dropout", [-0.1, 1.0, torch.nan])
    def test_dropout_that_is_no_share(self, dropout):
        with pytest.raises(ValueError, match=rf"in \[0, 1\); got {dropout}"):
            MultiHeadAttention(8, 4, dropout=dropout)

    @pytest.mark.parametrize(
        ("shapes", "seen"),
        [
            ([(2, 5, 7)], r"x \(\.\.\., q_len, 8\), .*got x torch float64 \(2, 5, 7\)$"),
            (
                [(2, 5, 8)],
                r"kv_len, 10\), x itself by default; got x torch float64 \(2, 5, 8\)$",
            ),
            ([(2, 5, 8), (2, 6, 8)], r"got x torch float64 \(2, 5, 8\), memory torch float64 \(2, 6, 8\)"),
            ([(8,), (2, 6, 10)], r"got x torch float64 \(8,\), memory torch float64 \(2, 6, 10\)"),
            ([(2, 5, 8), (10,)], r"memory torch float64 \(10,\)"),
            (
                [(2, 5, 8), (3, 6, 10)],
                r"must broadcast; got q .*\(2, 4, 5, 2\), k .*\(3, 4, 6, 2\)",
            ),
        ],
    )
    def test_shapes_that_do_not_fit(self, shapes, seen):
        with pytest.raises(ValueError, match=seen):
            layer(d_memory=10)(*(numbers(*shape) for shape in shapes))

    def test_masks_that_do_not_fit(self):
        with pytest.raises(ValueError, match=r"to the scores \(2, 4, 5, 5\); got mask .*\(5, 4\)"):
            layer()(numbers(2, 5, 8), mask=torch.ones(5, 4, dtype=torch.bool))
        with pytest.raises(TypeError, match="mask torch float64"):
            layer()(numbers(2, 5, 8), mask=numbers(5, 5))

    def test_strangers(self):
        for memory, seen in [(numbers(5, 8).long(), ", memory torch int64 (5, 8)"), (None, "")]:
            for x, also in [(numbers(5, 8).numpy(), "x numpy float64 (5, 8)"), ([1.0], "x builtins list")]:
                with pytest.raises(TypeError, match=f"tensors; got {re.escape(also + seen)}$"):
                    layer()(x, memory)
        with pytest.raises(TypeError, match=r"got x torch float64 \(5, 8\), memory torch int64 \(5, 8\)"):
            layer()(numbers(5, 8), numbers(5, 8).long())
        with pytest.raises(TypeError, match=r"got x torch complex128 \(5, 8\)$"):
            layer()(numbers(5, 8) * 1j)

    @pytest.mark.parametrize("positions", ["rotary", "alibi", "relative"])
    def test_positions_are_for_self_attention(self, positions):
        with pytest.raises(ValueError, match="takes no memory"):
            layer(positions)(numbers(5, 8), numbers(6, 8))


def test_the_layers_load_torch_when_first_asked_for():
    code = """
import sys
import selfattn as sa
before = {"torch", "selfattn.nn"} & {*sys.modules}
try:
    sa.mm
except AttributeError as error:
    print(error)
print(before, sa.nn.MultiHeadAttention(8, 2).num_heads)
from selfattn import nn
print(nn is sa.nn is sys.modules["selfattn.nn"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "module 'selfattn' has no attribute 'mm'\nset() 2\nTrue\n", done.stderr
