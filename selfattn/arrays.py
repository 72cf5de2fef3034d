"""Which array library the arguments belong to, and what an error message says about them."""

from typing import Any

from array_api_compat import array_namespace, is_array_api_obj


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
    present = [array for array in arrays.values() if array is not None]
    try:
        xp = array_namespace(*present)
    except TypeError:
        raise TypeError(f"expected arrays of one library; got {describe(**arrays)}") from None
    if not all(hasattr(array, "dtype") and xp.isdtype(array.dtype, "real floating") for array in present):
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


def broadcasts(array: Any, shape: tuple[int, ...]) -> bool:
    """Whether the array broadcasts to this very shape.

    >>> import numpy as np
    >>> broadcasts(np.zeros((1, 3)), (4, 2, 3)), broadcasts(np.zeros((4, 3)), (1, 3))
    (True, False)
    """
    sizes = zip(array.shape[::-1], shape[::-1], strict=False)
    return array.ndim <= len(shape) and all(size in (1, wanted) for size, wanted in sizes)
