"""What the arguments are: of which library, of which type, whether their numbers can be looked at."""

import operator
from contextlib import AbstractContextManager, nullcontext
from math import inf
from numbers import Real
from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_array_api_obj, is_torch_array


def describe(**arrays: Any) -> str:
    """Name, library, type and shape of each array that isn't None, for error messages.

    >>> import numpy as np
    >>> describe(q=np.zeros((2, 3)), k=None, v=[1.0])
    'q numpy float64 (2, 3), v builtins list'
    """

    def one(array: Any) -> str:
        library = type(array).__module__.partition(".")[0]
        if not hasattr(array, "shape"):
            return f"{library} {type(array).__name__}"
        return f"{library} {str(array.dtype).rpartition('.')[2]} {tuple(array.shape)}"

    return ", ".join(f"{name} {one(array)}" for name, array in arrays.items() if array is not None)


def namespace(**arrays: Any) -> Any:
    """The one array namespace that all the named arrays share; arguments that are None don't count.

    Raises `TypeError` when an argument is no array, when two come from different libraries,
    or when one doesn't hold real floating-point numbers. The message names what was seen.

    >>> import numpy as np
    >>> namespace(q=np.zeros(2), k=[0.0, 1.0])
    Traceback (most recent call last):
    TypeError: expected arrays of one library; got q numpy float64 (2,), k builtins list
    """
    try:
        xp = array_namespace(*arrays.values())
    except TypeError:
        raise TypeError(f"expected arrays of one library; got {describe(**arrays)}") from None
    for array in arrays.values():
        if array is not None and not (hasattr(array, "dtype") and xp.isdtype(array.dtype, "real floating")):
            raise TypeError(f"expected real floating-point arrays; got {describe(**arrays)}")
    return xp


def is_array(array: Any, xp: Any, kind: Any) -> bool:
    """Whether this is an array of the library whose namespace is `xp`, and of that kind.

    `kind` is the standard's: "bool", "integral", "real floating", or a tuple of such.

    >>> import numpy as np
    >>> xp = namespace(x=np.zeros(1))
    >>> is_array(np.array([True]), xp, "bool"), is_array(True, xp, "bool")
    (True, False)
    """
    return is_array_api_obj(array) and array_namespace(array) is xp and xp.isdtype(array.dtype, kind)


def broadcasts(shape: tuple, target: tuple) -> bool:
    """Whether an array of the first shape broadcasts to the second, to this very shape.

    >>> broadcasts((1, 3), (4, 2, 3)), broadcasts((4, 3), (1, 3))
    (True, False)
    """
    sizes = zip(shape[::-1], target[::-1], strict=False)
    return len(shape) <= len(target) and all(size in (1, wanted) for size, wanted in sizes)


def joined(*shapes: tuple) -> tuple:
    """The shape to which all of these broadcast, also where torch traces the sizes.

    Raises `ValueError` when they don't fit each other.

    >>> joined((2, 1), (), (4, 1, 3))
    (4, 2, 3)
    """
    sizes = [1] * max(map(len, shapes))
    for shape in shapes:
        for axis, size in enumerate(shape[::-1], start=1):
            if sizes[-axis] == 1:
                sizes[-axis] = size
            elif size not in (1, sizes[-axis]):
                raise ValueError(f"shapes don't broadcast: {', '.join(map(str, shapes))}")
    return tuple(sizes)


def integer(name: str, value: Any) -> Any:
    """The value as a Python integer; a length that torch traces, for any length, stays as it is.

    Raises `TypeError`, with the name and the value, when it is none.

    >>> integer("left", np.int64(3))
    3
    """
    if isinstance(value, bool):
        raise TypeError(f"{name} is an integer; got {value}")
    if isinstance(value, int) or type(value).__name__ == "SymInt" or traced(value):
        return value  # a SymInt is torch's, and to ask for its number would fix it
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is an integer; got {value!r}") from None


def number(name: str, value: Any, *, positive: bool = False) -> Any:
    """The value, a finite real number, as a float. An array is none, unless torch traces it.

    Raises `TypeError` when it is no real number, `ValueError` when it isn't finite or not positive where it
    should be; the message has the name and the value.

    >>> number("base", 0.0, positive=True)
    Traceback (most recent call last):
    ValueError: base is a positive number; got 0.0
    """
    if traced(value):
        return value
    if not isinstance(value, Real):
        raise TypeError(f"{name} is a number; got {value!r}")
    if not (0 if positive else -inf) < value < inf:
        raise ValueError(f"{name} is a {'positive' if positive else 'finite'} number; got {value}")
    return float(value)


def traced(*arguments: Any) -> bool:
    """Whether torch is recording or transforming what is done with these, so that no number may be looked at.

    That is so in `torch.compile`, `torch.export` and `torch.jit.trace`, in transforms of `torch.func` such as
    vmap, for batched gradients, for dual numbers of forward-mode derivatives, and for tensors without data:
    those of the device "meta" and torch's fake ones.

    >>> traced(np.zeros(3), None)
    False
    """
    tensors = list(filter(is_torch_array, arguments))
    if not tensors:
        return False
    import torch
    from torch._C._functorch import is_functorch_wrapped_tensor, is_legacy_batchedtensor
    from torch._subclasses import FakeTensor
    from torch.autograd import forward_ad

    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return True
    for tensor in tensors:
        if tensor.is_meta or isinstance(tensor, FakeTensor):
            return True
        if is_functorch_wrapped_tensor(tensor) or is_legacy_batchedtensor(tensor):
            return True
        if forward_ad.unpack_dual(tensor).tangent is not None:
            return True
    return False


def finite(*arrays: Any, bias: Any = None) -> bool:
    """Whether the arrays surely hold neither NaN nor infinity, nor tensors so large that products overflow.

    In a bias, which may be None, -∞ has a meaning, and is as good as finite. False also where numbers may not
    be looked at (see `traced`), or are so large that their sum is infinite.

    >>> finite(np.ones(3)), finite(np.ones(3), np.array([1.0, np.nan]))
    (True, False)
    """
    for array in arrays:
        xp = array_namespace(array)
        if xp.finfo(array.dtype).bits < 32:
            array = xp.astype(array, xp.float32)
        if is_torch_array(array):
            if traced(array):
                return False
            flat = array.detach().reshape(-1)
            if not xp.isfinite(flat @ flat):  # which bounds all q · k; torch's norm takes twice as long
                return False
        else:
            with undisturbed(array):
                if not xp.isfinite(xp.sum(array)):
                    return False
    if bias is None or 0 in bias.shape:
        return True
    return not traced(bias) and bool(array_namespace(bias).max(bias) < inf)


def undisturbed(array: Any) -> AbstractContextManager:
    """The context in which the arithmetic is done: nothing beyond the formula happens to the numbers.

    What is too large or too small for its type becomes infinite or zero without a word from NumPy, whatever
    `numpy.errstate` says outside; torch's autocast doesn't narrow what was widened on purpose.

    >>> with np.errstate(all="raise"), undisturbed(np.ones(1)):
    ...     np.exp(np.array([-1e3]))
    array([0.])
    """
    if not is_torch_array(array):
        return np.errstate(all="ignore")
    import torch

    kind = array.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()
