"""Really trained models, run forward on this library's own attention.

Their published files come inside packages that are read, not imported, so nothing is downloaded at run time.

>>> from selfattn import pretrained
>>> pretrained.names()
('minilm-l6',)
>>> pretrained.load("minilm-l6").encode("The bank flooded.").shape
(6, 384)
"""

from pathlib import Path

from . import minilm

_MODELS = {"minilm-l6": minilm}


def names() -> tuple[str, ...]:
    """The models that `load` knows, in alphabetical order.

    >>> "minilm-l6" in names()
    True
    """
    return tuple(sorted(_MODELS))


def load(name: str, folder: str | Path | None = None) -> minilm.Encoder:
    """The model of that name, from its installed package or from a folder with the same files.

    Each file is checked against the digest of the published one before it is used. Raises `ValueError` for
    a name that isn't among `names` and for a file that was altered or cut short, `FileNotFoundError` when
    the package or a file is missing; the message names it.

    >>> load("minilm-l6").config["num_hidden_layers"]
    6
    """
    if name not in _MODELS:
        raise ValueError(f"no model is called {name!r}; there are {', '.join(names())}")
    return _MODELS[name].load(folder)
