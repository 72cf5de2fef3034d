"""What an installed copy says of itself: its version, from one place, and that its signatures are typed."""

import importlib.metadata
import importlib.resources
import tomllib
from pathlib import Path

import yaml

import selfattn as sa

ROOT = Path(__file__).parents[1]


def test_the_version_is_the_installed_ones_and_the_citations():
    assert sa.__version__ == importlib.metadata.version("selfattn")
    assert sa.__version__ == yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]


def test_the_version_stands_in_the_package_alone():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in settings["project"]
    assert settings["project"]["dynamic"] == ["version"]
    assert settings["tool"]["hatch"]["version"] == {"path": "selfattn/__init__.py"}


def test_type_checkers_are_told_to_read_the_signatures():
    assert importlib.resources.files(sa).joinpath("py.typed").is_file()
