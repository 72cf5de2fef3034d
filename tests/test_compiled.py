"""What torch compiles and exports: one graph for all lengths and all masks of a kind, with the same values.

Each test is a program of its own: Dynamo can't look through the type checker that the other tests run under.
"""

import subprocess
import sys

import pytest

PROGRAMS = {
    "functions": """
torch._dynamo.config.recompile_limit = 1  # once for all lengths and numbers
torch._dynamo.config.fail_on_recompile_limit_hit = True
def ids(n, size):
    return torch.arange(n) // size
def attend(x, mask, **options):
    return sa.flash_attention(x, x, x, mask=mask, **options)
CALLS = {
    "a rule": (lambda x, m: attend(x, sa.causal & sa.sliding_window(3), softcap=2.0), [None, None]),
    "packed here": (lambda x, m: attend(x, sa.causal & sa.documents(m)), [ids(9, 3), ids(7, 2)]),
    "documents": (attend, [sa.documents([0] * 4 + [1] * 5), sa.documents(range(9))]),
    "lengths": (lambda x, m: attend(x, sa.padding(m)), [torch.tensor([3, 4]), torch.tensor([9, 0])]),
    "boolean": (lambda x, m: sa.attention(x, x, x, mask=m), [torch.rand(n, n) > 0.4 for n in (9, 7)]),
}
for name, (function, masks) in CALLS.items():
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="eager")
    for mask in masks:
        n = len(mask) if name in ("packed here", "boolean") else 9
        x = torch.randn(2, 3, n, 4, requires_grad=True)
        found, expected = compiled(x, mask), function(x, mask)
        torch.testing.assert_close(found, expected, msg=lambda text: f"{name}: {text}")
        gradients = [torch.autograd.grad(output.sin().sum(), x)[0] for output in (found, expected)]
        torch.testing.assert_close(*gradients, msg=lambda text: f"{name}: {text}")
looking = torch.compile(lambda x: x + 1 if traced(x) else x, fullgraph=True, backend="eager")
assert looking(torch.ones(1)) == 2
""",
    "functions exported": """
class Attending(torch.nn.Module):
    def forward(self, x, ids, allowed):
        packed = sa.flash_attention(x, x, x, mask=sa.causal & sa.documents(ids))
        return packed + sa.attention(x, x, x, mask=allowed)
def inputs(batch, n):
    return torch.randn(batch, 3, n, 4), torch.arange(n) // 3, torch.rand(n, n) > 0.4
batch, n = (torch.export.Dim(name, min=2, max=99) for name in ("batch", "n"))
shapes = ({0: batch, 2: n}, {0: n}, {0: n, 1: n})
program = torch.export.export(Attending(), inputs(3, 9), dynamic_shapes=shapes)
given = inputs(2, 37)
torch.testing.assert_close(program.module()(*given), Attending()(*given))
""",
    "a layer": """
torch._dynamo.config.recompile_limit = 1  # once for all lengths
for positions, training in ((Rotary(), False), (Alibi(), True), (RelativeBias(4), True)):
    options = {"num_kv_heads": 2, "positions": positions, "qk_norm": torch.nn.RMSNorm, "dropout": 1e-12}
    layer = MultiHeadAttention(8, 4, **options).train(training)
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="eager")
    for n in (4, 7):
        x = torch.randn(2, n, 8)
        torch.testing.assert_close(compiled(x, mask=sa.causal), layer(x, mask=sa.causal))
""",
    "a cache that compiled and other calls share": """
x, memory = torch.randn(2, 9, 8), torch.randn(2, 6, 8)
for grad, source, positions in (True, (), Rotary()), (False, (), Rotary()), (False, (memory,), None):
    layer, cache = MultiHeadAttention(8, 4, positions=positions), KVCache()
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    with torch.set_grad_enabled(grad):
        calls = zip((compiled, compiled, layer, compiled), x.split((4, 1, 2, 2), dim=1))
        outputs = [call(new, *source, mask=sa.causal, cache=cache) for call, new in calls]
    assert cache.length == 9
    torch.testing.assert_close(torch.cat(outputs, dim=1), layer(x, *source, mask=sa.causal))
""",
    "a layer exported for any batch and length": """
class Causal(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer
    def forward(self, x, memory=None):
        return self.layer(x, memory, mask=sa.causal)
batch, n, m = (torch.export.Dim(name, min=2, max=99) for name in ("batch", "n", "m"))
for positions, training in ((Rotary(), True), (RelativeBias(4), False)):
    model = Causal(MultiHeadAttention(8, 4, num_kv_heads=2, positions=positions, dropout=1e-12))
    model.train(training)
    program = torch.export.export(model, (torch.randn(3, 9, 8),), dynamic_shapes=({0: batch, 1: n},))
    x = torch.randn(2, 37, 8)
    torch.testing.assert_close(program.module()(x), model(x))
model = Causal(MultiHeadAttention(8, 4, d_memory=6)).eval()
example = torch.randn(3, 9, 8), torch.randn(3, 5, 6)
program = torch.export.export(model, example, dynamic_shapes=({0: batch, 1: n}, {0: batch, 1: m}))
x, memory = torch.randn(2, 37, 8), torch.randn(2, 11, 6)
torch.testing.assert_close(program.module()(x, memory), model(x, memory))
""",
}
BEGIN = """
import torch, selfattn as sa
from selfattn.arrays import traced
from selfattn.nn import *
"""


@pytest.mark.parametrize("name", PROGRAMS)
def test_as_it_is_and_compiled(name):
    program = [sys.executable, "-c", f"{BEGIN}{PROGRAMS[name]}print('done')"]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.stdout == "done\n", done.stderr[-2000:]
