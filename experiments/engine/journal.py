"""What a running notebook tells the command that started it: how many cells there are, which one is done.

In the end it hands over the cells themselves, for the record. A journal is a file on this machine with one
JSON object a line. The kernel appends, the command reads. Without a command (a notebook run by hand) nobody
is told.
"""

import json
import os
from pathlib import Path
from typing import Any

PLACE = "SELFATTN_JOURNAL"


def tell(**event: Any) -> None:
    """Append one event to this kernel's journal, if a command reads it."""
    if place := os.environ.get(PLACE):
        append(Path(place), event)


def append(place: Path, event: dict[str, Any]) -> None:
    """Append one event; `anew` makes the sums begin again."""
    with place.open("a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n")


class Journal:
    """The command's side: the sums of what one kernel has told so far."""

    def __init__(self, path: Path) -> None:
        self.path, self._read = path, 0
        self.remarks: list[str] = []
        self._begin()

    def _begin(self) -> None:
        self.cells = self.kept = self.computed = 0
        self.measured: list[dict[str, Any]] = []

    def catch_up(self) -> None:
        """Take in the lines that are new and whole."""
        text = self.path.read_bytes()[self._read :] if self.path.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        for event in map(json.loads, whole.splitlines()):
            if event.get("anew"):
                self._begin()
            self.cells += event.get("cells", 0)
            self.kept += event.get("kept", 0)
            self.computed += event.get("computed", 0)
            self.measured += event.get("measured", [])
            self.remarks += [event["remark"]] if "remark" in event else []

    def summary(self) -> dict[str, Any]:
        """For the run's record: how many cells, how many of them kept, their own time, and on what."""
        self.catch_up()
        found = {
            "number": self.cells,
            "kept": self.kept,
            "seconds": round(sum(cell["seconds"] for cell in self.measured), 1),
            "processors": sorted({cell["processor"] for cell in self.measured}),
        }
        return {"cells": found} if self.cells else {}
