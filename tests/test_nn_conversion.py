"""The layer from and to torch's own module: the same numbers, gradients, types and flags."""

import copy
import re
import warnings

import pytest
import torch
import torch.ao.nn.quantizable
import torch.ao.nn.quantized
import torch.nn.utils.prune
from layers import close, exact, filled, layer, numbers
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import selfattn as sa
from selfattn.nn import MultiHeadAttention, Rotary


def same_parameters(layer, module, of):
    """Torch's names for what `of` takes from our parameters: the parameters themselves, their gradients."""
    linears = layer.query, layer.key, layer.value
    expected = {"out_proj.weight": of(layer.output.weight)}
    if layer.d_memory == layer.d_model:
        expected["in_proj_weight"] = torch.cat([of(linear.weight) for linear in linears])
    else:
        expected |= {f"{n}_proj_weight": of(ln.weight) for n, ln in zip("qkv", linears, strict=True)}
    if layer.query.bias is not None:
        expected["in_proj_bias"] = torch.cat([of(linear.bias) for linear in linears])
        expected["out_proj.bias"] = of(layer.output.bias)
    theirs = {name: of(parameter) for name, parameter in module.named_parameters()}
    assert theirs.keys() == expected.keys()
    return theirs, expected


class AllOnMeta(TorchDispatchMode):
    """Lets no operation make numbers."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **kwargs or {})
        assert not isinstance(output, torch.Tensor) or output.is_meta
        return output


class Wrapped(torch.nn.Module):
    """A projection with a low-rank addition (Hu et al. 2022), as libraries put it around a Linear."""

    def __init__(self, linear):
        super().__init__()
        self.linear, self.down, self.up = linear, torch.nn.Linear(8, 2), torch.nn.Linear(2, 8)

    def forward(self, x):
        return self.linear(x) + self.up(self.down(x))


class Doubled(torch.nn.Linear):
    """A Linear that does something else."""

    def forward(self, x):
        return 2 * super().forward(x)


def parametrized(linear):
    return torch.nn.utils.parametrize.register_parametrization(linear, "weight", torch.nn.Tanh())


def hooked_norm(linear):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # deprecated, and in many models
        return torch.nn.utils.weight_norm(linear)


PROJECTIONS = {  # what people put in the place of a projection, and what the error calls it
    "low rank": (Wrapped, r"Wrapped\("),
    "sequence": (lambda linear: torch.nn.Sequential(linear, torch.nn.Tanh()), r"Sequential\("),
    "subclass": (
        lambda linear: filled(Doubled(8, 8)),
        r"Doubled\(in_features=8, out_features=8, bias=True\)$",
    ),
    "parametrized": (parametrized, r"ParametrizedLinear\("),
    "weight norm": (torch.nn.utils.parametrizations.weight_norm, r"ParametrizedLinear\("),
    "weight norm by hooks": (hooked_norm, r"Linear\(in_features=8, out_features=8, bias=True\)$"),
    "pruned": (
        lambda linear: torch.nn.utils.prune.l1_unstructured(linear, "weight", 0.5),
        r"Linear\(in_features=8, out_features=8, bias=True\)$",
    ),
    "no bias": (
        lambda linear: filled(torch.nn.Linear(8, 8, bias=False)),
        r"Linear\(in_features=8, out_features=8, bias=False\)$",
    ),
    "nothing": (lambda linear: torch.nn.Identity(), r"Identity\(\)$"),
}


@pytest.mark.parametrize("name", ["query", "key", "value", "output"])
@pytest.mark.parametrize("kind", PROJECTIONS)
class TestOtherProjections:
    def test_are_called(self, name, kind):
        ours, x = layer(), numbers(2, 5, 8)
        other = PROJECTIONS[kind][0](getattr(ours, name)).double()
        setattr(ours, name, other)
        q, k, v = (
            part(x).unflatten(-1, (4, 2)).transpose(1, 2) for part in (ours.query, ours.key, ours.value)
        )
        expected = ours.output(sa.attention(q, k, v).transpose(1, 2).flatten(-2))
        assert_close(ours(x), expected, **close[x.dtype])
        for training in (True, False):
            ours.dropout = 1e-12
            assert_close(ours.train(training)(x), expected)

    def test_are_not_thrown_away(self, name, kind):
        ours = layer()
        other, called = PROJECTIONS[kind]
        setattr(ours, name, other(getattr(ours, name)))
        with pytest.raises(ValueError, match=rf"^torch.* and selfattn.* don't share {name}={called}"):
            ours.to_torch()


class TestSameAsTorch:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
    @pytest.mark.parametrize("d_memory", [None, 8, 10], ids=["self", "cross", "cross, another width"])
    @pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
    @pytest.mark.parametrize("masked", ["nothing", "Mask", "tensors"])
    def test_forward_and_backward(self, dtype, d_memory, bias, masked):
        module = torch.nn.MultiheadAttention(
            8, 4, bias=bias, kdim=d_memory, vdim=d_memory, batch_first=True, dtype=dtype
        )
        filled(module, dtype)
        ours = MultiHeadAttention.from_torch(module)

        def inputs():
            x, memory = numbers(2, 5, 8, dtype=dtype), numbers(2, 6, d_memory or 8, seed=1, dtype=dtype)
            return (x.requires_grad_(), memory.requires_grad_()) if d_memory else (x.requires_grad_(),)

        kv_len = 6 if d_memory else 5
        forbidden = torch.ones(5, kv_len, dtype=torch.bool).triu(1)
        padded = torch.arange(kv_len) >= torch.tensor([[kv_len], [2]])
        theirs_masked = {"attn_mask": forbidden, "key_padding_mask": padded}
        ours_masked = {"mask": sa.causal & sa.padding([kv_len, 2])}
        if masked == "nothing":
            theirs_masked = ours_masked = {}
        elif masked == "tensors":
            ours_masked = {"mask": ~(forbidden | padded[:, None, None, :])}

        theirs_in, ours_in = inputs(), inputs()
        expected, expected_weights = module(
            theirs_in[0], theirs_in[-1], theirs_in[-1], average_attn_weights=False, **theirs_masked
        )
        output = ours(*ours_in, **ours_masked)
        assert_close(output, expected, **close[dtype])
        assert_close(ours.attention_weights(*ours_in, **ours_masked), expected_weights, **close[dtype])

        for outputs in (output, expected):
            (outputs * numbers(*outputs.shape, seed=2, dtype=dtype)).sum().backward()
        tolerance = close[dtype] if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-5}
        for mine, theirs in zip(ours_in, theirs_in, strict=True):
            assert_close(mine.grad, theirs.grad, **tolerance)
        assert_close(*same_parameters(ours, module, of=lambda p: p.grad), **tolerance)

    @pytest.mark.parametrize("d_memory", [8, 10])
    @pytest.mark.parametrize("bias", [True, False])
    def test_there_and_back(self, d_memory, bias):
        ours = layer(d_memory=d_memory, bias=bias, dropout=0.25).eval()
        module = ours.to_torch()
        exact(*same_parameters(ours, module, of=lambda p: p.detach()))
        assert (module.batch_first, module.dropout, module.training) == (True, 0.25, False)
        back = MultiHeadAttention.from_torch(module)
        exact(back.state_dict(), ours.state_dict())
        assert (back.num_heads, back.d_memory, back.dropout, back.training) == (4, d_memory, 0.25, False)
        x, memory = numbers(2, 5, 8), numbers(2, 6, d_memory)
        assert_close(module(x, memory, memory)[0], ours(x, memory), **close[x.dtype])

    def test_the_matrices_are_copies(self):
        ours = layer()
        module = ours.to_torch()
        back = MultiHeadAttention.from_torch(module)
        before = copy.deepcopy(ours.state_dict())
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.zero_()
        exact(ours.state_dict(), before)
        exact(back.state_dict(), before)

    def test_torchs_other_layout_changes_only_how_it_is_called(self):
        module = filled(torch.nn.MultiheadAttention(8, 4))
        x = numbers(2, 5, 8)
        theirs = module(*[x.mT.permute(2, 0, 1)] * 3)[0]
        assert_close(MultiHeadAttention.from_torch(module)(x), theirs.transpose(0, 1), **close[x.dtype])

    @pytest.mark.parametrize("d_memory", [8, 10])
    @pytest.mark.parametrize("frozen", ["in_proj", "k_proj", "bias", "out_proj", "weight", ""])
    def test_what_is_frozen_stays_frozen(self, d_memory, frozen):
        module = torch.nn.MultiheadAttention(8, 4, kdim=d_memory, vdim=d_memory)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(frozen not in name)
        ours = MultiHeadAttention.from_torch(module)
        theirs, expected = same_parameters(ours, module, of=lambda p: torch.full(p.shape, p.requires_grad))
        exact(expected, theirs)
        flags = {name: parameter.requires_grad for name, parameter in ours.to_torch().named_parameters()}
        assert flags == {name: parameter.requires_grad for name, parameter in module.named_parameters()}

    @pytest.mark.parametrize("d_memory", [8, 10])
    def test_each_parameter_keeps_its_type(self, d_memory):
        module = torch.nn.MultiheadAttention(8, 4, kdim=d_memory, vdim=d_memory).half()
        module.out_proj.double()
        module.in_proj_bias.data = module.in_proj_bias.data.bfloat16()
        ours = MultiHeadAttention.from_torch(module)
        types = {linear.weight.dtype for linear in (ours.query, ours.key, ours.value)}
        assert types == {torch.float16}
        assert {ours.key.bias.dtype, ours.output.weight.dtype} == {torch.bfloat16, torch.float64}
        back = {name: parameter.dtype for name, parameter in ours.to_torch().named_parameters()}
        assert back == {name: parameter.dtype for name, parameter in module.named_parameters()}

    @pytest.mark.parametrize("d_memory", [8, 10])
    def test_on_the_meta_device(self, d_memory):
        module = torch.nn.MultiheadAttention(8, 4, kdim=d_memory, vdim=d_memory, device="meta").eval()
        with AllOnMeta():
            ours = MultiHeadAttention.from_torch(module)
            back = ours.to_torch()
        assert not ours.training
        assert {p.device.type for p in (*ours.parameters(), *back.parameters())} == {"meta"}
        assert {name: p.shape for name, p in back.named_parameters()} == {
            name: p.shape for name, p in module.named_parameters()
        }

    def test_a_parameter_of_ours_is_a_copy_even_of_a_part(self):
        ours = MultiHeadAttention.from_torch(torch.nn.MultiheadAttention(8, 4))
        assert all(p.untyped_storage().nbytes() == p.nbytes for p in ours.parameters())

    def test_a_subclass_that_adds_nothing(self):
        class Named(torch.nn.MultiheadAttention):
            pass

        module, x = filled(Named(8, 4, batch_first=True)), numbers(2, 5, 8)
        assert_close(MultiHeadAttention.from_torch(module)(x), module(x, x, x)[0], **close[x.dtype])

    def test_what_is_made_in_inference_mode_can_be_trained(self):
        module, x = torch.nn.MultiheadAttention(8, 4), torch.ones(5, 8)
        with torch.inference_mode():
            converted = [MultiHeadAttention.from_torch(module), MultiHeadAttention(8, 4).to_torch()]
            converted.append(MultiHeadAttention.from_torch(converted[1]))
        for each, inputs in zip(converted, ([x], [x, x, x], [x]), strict=True):
            output = each(*inputs)
            (output[0] if isinstance(output, tuple) else output).sum().backward()
            torch.optim.SGD(each.parameters()).step()

    def test_a_subclass_stays_one(self):
        class Own(MultiHeadAttention):
            pass

        assert type(Own.from_torch(torch.nn.MultiheadAttention(8, 4))) is Own


@pytest.mark.usefixtures("unchecked")
class TestErrors:
    @pytest.mark.parametrize(
        ("options", "seen"),
        [
            ({"add_bias_kv": True}, "add_bias_kv=True"),
            ({"add_zero_attn": True}, "add_zero_attn=True"),
            ({"kdim": 6}, "kdim=6 with vdim=8"),
            ({"kdim": 6, "vdim": 7, "add_zero_attn": True}, "add_zero_attn=True, kdim=6 with vdim=7"),
        ],
    )
    def test_what_torch_has_and_we_have_not(self, options, seen):
        with pytest.raises(ValueError, match=f"don't share {seen}$"):
            MultiHeadAttention.from_torch(torch.nn.MultiheadAttention(8, 4, **options))

    @pytest.mark.parametrize(
        ("options", "seen"),
        [
            ({"num_kv_heads": 2}, r"num_kv_heads=2"),
            ({"positions": Rotary()}, r"positions=Rotary\(\)"),
            ({"qk_norm": torch.nn.LayerNorm}, r"query_norm=LayerNorm\(.*\), key_norm=LayerNorm\(.*\)"),
        ],
    )
    def test_what_we_have_and_torch_has_not(self, options, seen):
        with pytest.raises(ValueError, match=f"don't share {seen}$"):
            MultiHeadAttention(8, 4, **options).to_torch()

    @pytest.mark.parametrize("norm", ["query_norm", "key_norm"])
    def test_one_norm_alone(self, norm):
        ours = MultiHeadAttention(8, 4)
        setattr(ours, norm, torch.nn.Tanh())
        with pytest.raises(ValueError, match=rf"don't share {norm}=Tanh\(\)$"):
            ours.to_torch()

    def test_a_projection_of_another_shape(self):
        ours = MultiHeadAttention(8, 4, d_memory=10)
        ours.value = torch.nn.Linear(8, 8)
        with pytest.raises(
            ValueError, match=r"share value=Linear\(in_features=8, out_features=8, bias=True\)$"
        ):
            ours.to_torch()

    @pytest.mark.parametrize(("d_memory", "kinds"), [(8, ["weight", "bias"]), (10, ["bias"])])
    def test_queries_keys_and_values_are_frozen_together(self, d_memory, kinds):
        for kind in kinds:
            ours = MultiHeadAttention(8, 4, d_memory=d_memory)
            getattr(ours.key, kind).requires_grad_(False)
            seen = rf"requires_grad=\[True, False, True\] of the {kind} of query, key, value$"
            with pytest.raises(ValueError, match=f"don't share {seen}"):
                ours.to_torch()

    def test_what_is_no_attention(self):
        with pytest.raises(TypeError, match=r"torch\.nn\.MultiheadAttention; got torch\.nn\..*\.Linear$"):
            MultiHeadAttention.from_torch(torch.nn.Linear(8, 8))

    def test_a_module_with_a_forward_of_its_own(self):
        class Own(torch.nn.MultiheadAttention):
            def forward(self, *arguments):
                return None

        seen = rf"the forward of {re.escape(Own.__module__)}\..*\.Own$"
        with pytest.raises(ValueError, match=f"don't share {seen}"):
            MultiHeadAttention.from_torch(Own(8, 4))
        patched = torch.nn.MultiheadAttention(8, 4)
        patched.forward = lambda *arguments: None
        with pytest.raises(ValueError, match=r"the forward of torch\.nn\.modules\.activation\.Multihead"):
            MultiHeadAttention.from_torch(patched)

    @pytest.mark.parametrize("stage", ["quantizable", "quantized"])
    def test_modules_of_torchs_quantization(self, stage):
        module = getattr(torch.ao.nn, stage).MultiheadAttention(8, 4)
        with pytest.raises(ValueError, match=rf"share the forward of torch\.ao\.nn\.{stage}\..*Attention"):
            MultiHeadAttention.from_torch(module)

    @pytest.mark.parametrize(
        ("change", "seen"),
        [
            (
                lambda m: setattr(m, "out_proj", Wrapped(m.out_proj)),
                r"the parameters out_proj\.down\.bias, .*, out_proj=Wrapped\(",
            ),
            (lambda m: setattr(m, "out_proj", torch.nn.Identity()), r"out_proj=Identity\(\)$"),
            (lambda m: hooked_norm(m.out_proj), r"the parameters out_proj\.weight_g, out_proj\.weight_v$"),
            (
                lambda m: torch.nn.utils.parametrize.register_parametrization(
                    m, "in_proj_weight", torch.nn.Tanh()
                ),
                r"the parameters parametrizations\.in_proj_weight\.original$",
            ),
            (lambda m: setattr(m.out_proj, "bias", None), "a bias of in_proj or out_proj alone$"),
            (lambda m: setattr(m, "in_proj_bias", None), "a bias of in_proj or out_proj alone$"),
        ],
        ids=[
            "wrapped",
            "nothing",
            "weight norm by hooks",
            "parametrized",
            "no bias outside",
            "no bias inside",
        ],
    )
    def test_modules_whose_parameters_are_elsewhere(self, change, seen):
        module = torch.nn.MultiheadAttention(8, 4)
        change(module)
        with pytest.raises(ValueError, match=f"don't share {seen}"):
            MultiHeadAttention.from_torch(module)

    def test_quantized_projections(self):
        ours, x = layer(dtype=torch.float32), numbers(2, 5, 8, dtype=torch.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it moves to another package
            small = torch.ao.quantization.quantize_dynamic(ours)
        assert_close(small(x), ours(x), rtol=0.1, atol=0.1)
        assert not torch.equal(small(x), ours(x))
        with pytest.raises(ValueError, match=r"share query=DynamicQuantizedLinear\(.*, output=DynamicQuan"):
            small.to_torch()
