import re
import warnings
from functools import partial

import array_api_strict
import jaxtyping
import numpy as np
import pytest
import torch
from array_api_compat import array_namespace
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

import selfattn as sa
from selfattn.arrays import (
    broadcasts,
    describe,
    finite,
    integer,
    is_array,
    joined,
    namespace,
    number,
    traced,
    undisturbed,
)


def test_describe_names_library_type_and_shape(like, xp):
    library = xp.__name__
    assert describe(q=like(np.zeros((2, 3)), "float32"), k=None) == f"q {library} float32 (2, 3)"
    assert describe(n=like(7, "int64"), v=2.5) == f"n {library} int64 (), v builtins float"


def test_namespace_is_the_arrays_own_and_skips_none(like):
    x = like([1.0])
    assert namespace(q=x, bias=None, k=x) is array_namespace(x)


@pytest.mark.parametrize(
    ("arrays", "seen"),
    [
        (
            {"q": np.ones(2), "k": torch.ones(2)},
            r"one library; got q numpy float64 \(2,\), k torch float32 \(2,\)",
        ),
        (
            {"q": np.ones(2), "k": array_api_strict.ones(2)},
            r"one library; got .*k array_api_strict float64 \(2,\)",
        ),
        ({"q": [1.0]}, "one library; got q builtins list"),
        ({"q": np.ones(2), "bias": 1.0}, r"real floating-point arrays; got .*bias builtins float"),
        ({"q": np.ones((2, 1), int)}, r"real floating-point arrays; got q numpy int64 \(2, 1\)"),
        (
            {"q": torch.ones(2), "k": torch.ones(2).bool()},
            r"real floating-point arrays; got .*k torch bool \(2,\)",
        ),
        (
            {"q": torch.ones(2, dtype=torch.complex64)},
            r"real floating-point arrays; got q torch complex64 \(2,\)",
        ),
    ],
)
def test_anything_but_real_arrays_of_one_library_is_refused(arrays, seen):
    with pytest.raises(TypeError, match=seen):
        namespace(**arrays)


def test_the_tests_enforce_the_shapes_in_the_signatures():
    with pytest.raises(jaxtyping.TypeCheckError, match="kv_len d_k"):
        sa.dot_product(np.ones((2, 3)), np.ones((2, 4)))


@pytest.mark.usefixtures("unchecked")
def test_without_the_checker_the_library_speaks_for_itself():
    with pytest.raises(ValueError, match=r"got q numpy float64 \(2, 3\), k numpy float64 \(2, 4\)"):
        sa.dot_product(np.ones((2, 3)), np.ones((2, 4)))


def test_is_array_knows_library_and_kind(like, xp):
    x = like([1.0])
    assert is_array(x, array_namespace(x), "real floating")
    assert is_array(like([1], "int64"), array_namespace(x), ("integral", "real floating"))
    assert not is_array(like([True], "bool"), array_namespace(x), ("integral", "real floating"))
    for stranger in ([1.0], 1.0, (np if xp is torch else torch).ones(1)):
        assert not is_array(stranger, array_namespace(x), "real floating")


@pytest.mark.parametrize(
    "shape", [(), (1,), (3,), (2, 3), (2, 1), (1, 3), (4, 2, 3), (1, 2, 3), (0, 3), (2,)]
)
@pytest.mark.parametrize("target", [(), (3,), (2, 3), (4, 2, 3), (0, 3)])
def test_broadcasts_means_to_this_very_shape(shape, target):
    try:
        np.broadcast_to(np.ones(shape), target)
    except ValueError:
        assert not broadcasts(shape, target)
    else:
        assert broadcasts(shape, target)


@given(st.lists(st.lists(st.integers(0, 3), max_size=3).map(tuple), min_size=1, max_size=3))
def test_joined_is_what_shapes_broadcast_to(shapes):
    try:
        expected = np.broadcast_shapes(*shapes)
    except ValueError:
        with pytest.raises(ValueError, match=re.escape(", ".join(map(str, shapes)))):
            joined(*shapes)
    else:
        assert joined(*shapes) == expected


@pytest.mark.parametrize("value", [3, np.int8(3), np.array(3), torch.tensor(3)], ids=type)
def test_any_integer_will_do(value):
    assert type(integer("n", value)) is int
    assert integer("n", value) == 3


@pytest.mark.parametrize("value", [3.0, "3", None, np.float64(3), [3], True], ids=type)
def test_what_is_no_integer_is_named(value):
    with pytest.raises(TypeError, match=re.escape(f"n is an integer; got {value!r}")):
        integer("n", value)


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int8(2)], ids=type)
def test_any_real_number_will_do(value):
    assert type(number("x", value, positive=True)) is float
    assert number("x", -value) == -2


@pytest.mark.parametrize("value", ["2", None, 2j, [2.0], np.array(2.0), torch.tensor(2.0)], ids=type)
def test_what_is_no_number_is_named(value):
    with pytest.raises(TypeError, match=re.escape(f"x is a number; got {value!r}")):
        number("x", value)


@pytest.mark.parametrize("value", [0, -0.0, -1, np.inf, np.nan])
def test_what_is_not_positive_is_named(value):
    with pytest.raises(ValueError, match=re.escape(f"x is a positive number; got {value}")):
        number("x", value, positive=True)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_is_named(value):
    with pytest.raises(ValueError, match=re.escape(f"x is a finite number; got {value}")):
        number("x", value)


def test_half_is_a_positive_number():
    assert number("base", 0.5, positive=True) == 0.5


class TestTraced:
    def test_what_is_traced_stays_as_it_is(self):
        seen = []
        torch.func.vmap(lambda x: (seen.extend([x, integer("n", x), number("s", x)]), x)[1])(torch.ones(3))
        assert seen[0] is seen[1] is seen[2]

    def test_arrays_at_hand_are_not(self, like):
        assert not traced(like([1.0]), None, 3.0)

    def test_transforms_and_dual_numbers_and_tensors_without_data_are(self):
        seen, x = [], torch.ones(3)

        def watch(x):
            seen.append(traced(None, x))
            return x.sum()

        torch.func.vmap(watch)(x)
        torch.func.grad(watch)(x)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is deprecated, and used, by torch too
            torch.jit.trace(watch, x, check_trace=False)
            with torch.autograd.forward_ad.dual_level():
                watch(torch.autograd.forward_ad.make_dual(x, x))
        with FakeTensorMode() as mode:
            watch(mode.from_tensor(x))
        y = x.clone().requires_grad_()
        y.register_hook(lambda x: (watch(x), x)[1])
        torch.autograd.grad(2 * y, y, torch.eye(3), is_grads_batched=True)
        watch(torch.ones(3, device="meta"))
        assert seen == [True] * 7
        watch(x)
        assert not seen[-1]


class TestFinite:
    @pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
    def test_one_number_spoils_all(self, like, wrong):
        assert finite(like([1.0, -2.0]), like([[3.0]]))
        assert not finite(like([1.0]), like([2.0, wrong, 3.0]))

    def test_a_bias_may_forbid(self, like):
        x = like([1.0])
        assert finite(x, bias=like([-np.inf, 2.0]))
        assert finite(x, bias=like(np.ones((0, 2))))
        assert not finite(x, bias=like([1.0, np.inf]))
        assert not finite(x, bias=like([np.nan, 1.0]))
        assert not finite(x, bias=torch.ones(1, device="meta"))

    def test_infinities_do_not_cancel(self, like):
        assert not finite(like([np.inf, -np.inf]))

    @pytest.mark.parametrize("make", [np.float16, partial(torch.tensor, dtype=torch.float16)])
    def test_half_precisions_are_summed_in_float32(self, make):
        assert finite(make([60000.0, 60000.0]))

    def test_tensors_whose_products_overflow_are_not(self):
        assert finite(torch.tensor([1e19]))
        assert not finite(torch.tensor([2e19]))

    def test_what_may_not_be_looked_at_is_not(self):
        assert not finite(torch.ones(2, device="meta"))


class TestUndisturbed:
    def test_numpy_says_nothing(self):
        with np.errstate(all="raise"):
            with undisturbed(np.ones(1)):
                assert np.exp(np.array([-1e3, 1e3])).tolist() == [0, np.inf]
            with pytest.raises(FloatingPointError):
                np.exp(np.array([-1e3]))

    @pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
    def test_autocast_narrows_nothing(self, kind):
        x = torch.ones(2, 2)
        with torch.autocast("cpu", kind):
            with undisturbed(x):
                assert (x @ x).dtype == torch.float32
            assert (x @ x).dtype == kind

    def test_a_tensor_without_data_has_no_autocast(self):
        x = torch.ones(2, device="meta")
        with undisturbed(x):
            assert (x + 1).device.type == "meta"
