"""The library's own code on a page."""

import inspect
import re
from collections.abc import Callable
from typing import Any

from IPython.display import Markdown


def source(function: Callable[..., Any]) -> Markdown:
    """The source of one of the library's functions without its docstring, for display in a notebook.

    >>> from selfattn import softmax_jacobian
    >>> "identity" in source(softmax_jacobian).data
    True
    """
    code = re.sub(r'\n *r?"""(.|\n)*?"""\n', "\n", inspect.getsource(function), count=1)
    return Markdown(f"```python\n{code}```")
