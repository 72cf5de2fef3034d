"""What a command says: on stdout what was asked for, on stderr what went wrong, whoever still reads it."""

import json
import os
import sys
from typing import Any, TextIO

PIPE_CLOSED = 141  # what a shell reports of a program that SIGPIPE has ended


def say(text: str, end: str = "\n") -> None:
    """Print to stdout at once; characters that its encoding lacks become question marks.

    A reader that has gone (`list | head`) is no error: the command ends quietly by `SystemExit`. Raises
    `OSError` when stdout is a file on a full disk.
    """
    try:
        sys.stdout.reconfigure(errors="replace")
        print(text, end=end, flush=True)
    except OSError as error:
        _leave(sys.stdout)
        if isinstance(error, BrokenPipeError):
            raise SystemExit(PIPE_CLOSED) from error
        raise


def say_json(content: Any) -> None:
    """Print data for programs, in plain ASCII where stdout's encoding has not every character."""
    escaped = not sys.stdout.encoding.lower().startswith("utf")
    say(json.dumps(content, indent=1, ensure_ascii=escaped))


def complain(text: str) -> None:
    """Print to stderr; nobody need read it."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        _leave(sys.stderr)


def _leave(stream: TextIO) -> None:
    """Let what the stream still holds go nowhere: Python writes it once more at exit, and would complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
