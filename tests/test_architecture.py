import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def python(*arguments):
    """What a fresh interpreter prints, and its exit status."""
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout + done.stderr, done.returncode


def test_imports_run_downhill():
    said, status = python(
        "-c", "from importlinter.cli import lint_imports_command as lint; lint(['--no-cache', '--no-logo'])"
    )
    assert status == 0, said
    assert "0 broken" in said


def test_the_mechanism_loads_neither_torch_nor_matplotlib():
    said, status = python(
        "-c", "import selfattn, sys; print({'torch', 'matplotlib', 'numpy'} & {*sys.modules})"
    )
    assert (said, status) == ("{'numpy'}\n", 0)
