"""The layer from and to torch's own module: the same numbers, gradients, types and flags."""

import copy

import pytest
import torch
from layers import close, exact, filled, layer, numbers
from torch.testing import assert_close

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
            ({"qk_norm": torch.nn.LayerNorm}, r"qk_norm=LayerNorm.*"),
        ],
    )
    def test_what_we_have_and_torch_has_not(self, options, seen):
        with pytest.raises(ValueError, match=f"don't share {seen}$"):
            MultiHeadAttention(8, 4, **options).to_torch()
