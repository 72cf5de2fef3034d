import array_api_strict
import jaxtyping
import numpy as np
import pytest
import torch
from array_api_compat import array_namespace

import selfattn as sa
from selfattn.arrays import broadcasts, describe, is_array, namespace


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
def test_broadcasts_means_to_this_very_shape(like, shape, target):
    try:
        np.broadcast_to(np.ones(shape), target)
    except ValueError:
        assert not broadcasts(like(np.ones(shape)), target)
    else:
        assert broadcasts(like(np.ones(shape)), target)
