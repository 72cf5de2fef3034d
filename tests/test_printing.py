"""What a command prints, where not everybody can read every character."""

import json
import os
import subprocess
import sys

import pytest

from experiments.engine.notebooks import ROOT

ENCODINGS = [
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONIOENCODING": "latin-1:strict"},
]


def command(*typed: str, **environment: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    command = [sys.executable, "-m", "experiments", *typed]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)


@pytest.mark.parametrize("environment", ENCODINGS, ids=lambda given: next(iter(given)))
def test_a_character_that_cannot_be_printed_becomes_a_question_mark(environment: dict[str, str]) -> None:
    done = command("show", "scaling_init", **environment)
    assert b"What does 1/?d_k do before any training?" in done.stdout
    assert done.stderr == b""


@pytest.mark.parametrize("environment", ENCODINGS, ids=lambda given: next(iter(given)))
def test_data_for_programs_lose_no_character(environment: dict[str, str]) -> None:
    printed = command("list", "--json", **environment).stdout.decode("ascii")
    in_full = command("list", "--json", PYTHONIOENCODING="utf-8").stdout.decode("utf-8")
    assert "1/√d_k" in in_full
    assert json.loads(printed) == json.loads(in_full)


def test_a_refusal_is_printed_too() -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        command("run", "größer", **ENCODINGS[0])
    assert refused.value.returncode == 2
    assert refused.value.stderr.startswith(b"python -m experiments: unknown experiment")
    assert refused.value.stderr.count(b"\n") == 1
