import re
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from torch.nn.functional import scaled_dot_product_attention

import selfattn as sa
from selfattn.arrays import describe

assert_allclose = partial(np.testing.assert_allclose, rtol=0)  # its own default, 1e-7, would be added


def automatic(gradient, q, k, v, *, bias=None, mask=None, attend=sa.attention, **options):
    """What torch's automatic differentiation finds, in the order q, k, v, bias."""
    inputs = [torch.tensor(x, requires_grad=True) for x in (q, k, v, bias) if x is not None]
    if bias is not None:
        options["bias"] = inputs[3]
    if mask is not None:
        options["mask"] = mask if isinstance(mask, sa.Mask) else torch.tensor(mask)
    return torch.autograd.grad(attend(*inputs[:3], **options), inputs, torch.tensor(gradient))


def differences(loss, x, step=1e-5):
    """Central differences of a number with respect to each entry of `x`."""
    slopes = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        there, back = x.copy(), x.copy()
        there[index] += step
        back[index] -= step
        slopes[index] = (loss(there) - loss(back)) / (2 * step)
    return slopes


@st.composite
def problems(draw):
    """Inputs with axes that broadcast and grouped heads; a mask and a bias, which may forbid all; options."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = st.integers(1, 3)
    batch, q_len, kv_len, d_k, d_v = draw(st.lists(size, max_size=2)), *(draw(size) for _ in range(4))
    heads, k_heads, v_heads = draw(st.sampled_from([(1, 1, 1), (2, 1, 2), (4, 2, 1), (4, 2, 4), (6, 2, 3)]))

    def part(shape, keep=0):
        """A shape that broadcasts to this one, its last axes kept."""
        free = len(shape) - keep
        axes = *(draw(st.sampled_from([1, n])) for n in shape[:free]), *shape[free:]
        return axes[draw(st.integers(0, free)) :]

    def tensor(count, *lengths):
        return rng.standard_normal(part((*batch, count, *lengths), keep=2 + (count > 1)))

    q, k, v = tensor(heads, q_len, d_k), tensor(k_heads, kv_len, d_k), tensor(v_heads, kv_len, d_v)
    scores, options = sa.attention_weights(q, k).shape, {}
    if draw(st.booleans()):
        options["mask"] = rng.random(part(scores)) < 0.5
    if draw(st.booleans()):
        shape = part(scores)
        options["bias"] = np.where(rng.random(shape) < 0.7, rng.standard_normal(shape), -np.inf)
    options |= {name: draw(st.floats(0.3, 2)) for name in ("scale", "softcap") if draw(st.booleans())}
    return (rng.standard_normal(sa.attention(q, k, v).shape), q, k, v), options


def check(ours, theirs, **tolerance):
    assert (len(theirs) == 3) == (ours.bias is None)
    for mine, other in zip(ours, theirs, strict=False):
        assert mine.shape == tuple(other.shape)
        assert_allclose(mine, other, **tolerance)


@given(problems())
def test_same_as_automatic_differentiation(problem):
    inputs, options = problem
    check(sa.attention_backward(*inputs, **options), automatic(*inputs, **options), atol=1e-12)


@given(problems())
def test_same_as_differences(problem):
    (gradient, *inputs), options = problem
    names = ["q", "k", "v"]
    arguments = dict(zip(names, inputs, strict=True)) | options
    ours = sa.attention_backward(gradient, **arguments)
    for name in names:
        slopes = differences(
            lambda x, name=name: np.sum(gradient * sa.attention(**arguments | {name: x})), arguments[name]
        )
        assert_allclose(getattr(ours, name), slopes, atol=1e-7)
    if "bias" in options:
        finite = np.isfinite(options["bias"])  # minus infinity has no neighbours

        def loss(bias):
            return np.sum(gradient * sa.attention(**arguments | {"bias": np.where(finite, bias, -np.inf)}))

        slopes = differences(loss, np.where(finite, options["bias"], 0))
        assert_allclose(ours.bias, slopes, atol=1e-7)


CASES = {  # shapes of q, k and v, our options, torch's
    "plain": (((2, 3, 5, 4), (2, 3, 6, 4), (2, 3, 6, 7)), {}, {}),
    "causal": (((2, 3, 5, 4),) * 3, {"mask": sa.causal}, {"is_causal": True}),
    "grouped heads": (((2, 6, 5, 4), (2, 2, 6, 4), (2, 3, 6, 7)), {"scale": 0.3}, {"scale": 0.3}),
    "one head for all": (((2, 6, 5, 4), (1, 6, 4), (2, 1, 6, 7)), {}, {}),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 3e-6)])
@pytest.mark.parametrize("case", CASES)
def test_same_as_torchs_own_attention(like, xp, normal, case, dtype, tolerance):
    shapes, options, torchs = CASES[case]

    def attend(q, k, v):
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[-3], -3) for x in (k, v))
        return scaled_dot_product_attention(q, k, v, **torchs)

    inputs = normal(2, shapes[0][1], 5, shapes[2][-1]), *(normal(*shape) for shape in shapes)
    ours = sa.attention_backward(*(like(x, dtype) for x in inputs), **options)
    assert all(x.dtype == getattr(xp, dtype) for x in ours[:3])
    check(ours, automatic(*inputs, attend=attend), atol=tolerance)


@pytest.mark.parametrize("bias", [(), (6,), (1, 1), (5, 1), (3, 1, 1), (2, 1, 1, 6)])
def test_what_was_repeated_gets_the_sum_over_its_copies(normal, bias):
    q, k, v = normal(1, 3, 5, 4), normal(2, 1, 6, 4), normal(4, 1, 1, 6, 2)
    inputs, options = (normal(4, 2, 3, 5, 2), q, k, v), {"bias": normal(*bias), "softcap": 2.0}
    check(sa.attention_backward(*inputs, **options), automatic(*inputs, **options), atol=1e-12)


def test_two_keys_by_hand(like):
    """Equal weights on values 0 and 4: moving the first key by one moves the output by -1/4 * 4."""
    q, k, v = like([[1.0]]), like([[0.0], [0.0]]), like([[0.0], [4.0]])
    gradients = sa.attention_backward(like([[1.0]]), q, k, v, bias=like([[0.0, 0.0]]))
    assert_allclose(gradients.q, [[0]], atol=1e-15)
    assert_allclose(gradients.k, [[-1], [1]], atol=1e-15)
    assert_allclose(gradients.v, [[0.5], [0.5]], atol=1e-15)
    assert_allclose(gradients.bias, [[-1, 1]], atol=1e-15)


def test_a_forbidden_pair_passes_nothing(like, normal):
    arrays = [like(normal(*shape)) for shape in [(3, 2), (3, 4), (3, 4), (3, 2)]]
    gradients = sa.attention_backward(
        *arrays, mask=like([[0, 1, 1], [0, 0, 0], [0, 1, 1]], "bool"), softcap=2.0
    )
    q, k, v = (np.asarray(x) for x in gradients[:3])
    assert not q[1].any()
    assert not k[0].any()
    assert not v[0].any()
    assert q[[0, 2]].all()
    assert k[1:].all()
    assert v[1:].all()


def test_the_rows_of_the_gradient_of_a_bias_sum_to_zero(normal):
    arrays = [normal(*shape) for shape in [(2, 5, 3), (2, 5, 4), (2, 6, 4), (2, 6, 3)]]
    gradients = sa.attention_backward(*arrays, bias=normal(2, 5, 6))
    assert_allclose(gradients.bias.sum(-1), np.zeros((2, 5)), atol=1e-14)


def test_nothing_to_attend_to(like):
    q, k, v = like(np.ones((2, 3))), like(np.ones((0, 3))), like(np.ones((0, 5)))
    gradients = sa.attention_backward(like(np.ones((2, 5))), q, k, v)
    assert_array_equal(gradients.q, np.zeros((2, 3)))
    assert gradients.k.shape == (0, 3)
    assert gradients.v.shape == (0, 5)


@pytest.mark.usefixtures("unchecked")
class TestErrors:
    @pytest.mark.parametrize("shape", [(2, 4), (3, 3), (1, 2, 3), (2, 1)])
    def test_a_gradient_of_another_shape(self, like, shape):
        shapes = {"gradient": shape, "q": (2, 3), "k": (4, 3), "v": (4, 3)}
        arrays = {name: like(np.ones(shape)) for name, shape in shapes.items()}
        message = f"gradient must have the output's shape; got {describe(**arrays)}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            sa.attention_backward(**arrays)

    def test_what_attention_refuses(self, like):
        x, longer = like(np.ones((2, 3))), like(np.ones((4, 3)))
        with pytest.raises(ValueError, match=r"as many values as keys; got k .*\(2, 3\), v .*\(4, 3\)"):
            sa.attention_backward(x, x, x, longer)
        with pytest.raises(ValueError, match=r"bias must broadcast to the scores \(2, 2\)"):
            sa.attention_backward(x, x, x, x, bias=longer)

    @pytest.mark.parametrize("name", ["gradient", "q", "k", "v"])
    def test_strangers_and_integers(self, like, name):
        x = np.ones((2, 2))
        for wrong, wanted in [
            (x.tolist(), "expected arrays of one library"),
            (like(x, "int64"), "expected real floating-point arrays"),
        ]:
            arguments = dict.fromkeys(["gradient", "q", "k", "v"], like(x)) | {name: wrong}
            with pytest.raises(TypeError, match=f"^{re.escape(f'{wanted}; got {describe(**arguments)}')}$"):
                sa.attention_backward(**arguments)
