"""python -m experiments: what `experiments.engine.command` says, as a program.

Dask's worker processes import this module once more under another name, so it loads nothing by itself.
"""

import signal
import sys

if __name__ == "__main__":
    # jsonschema builds a grammar of web addresses while nbformat loads it, for seconds; notebooks need none.
    sys.modules["rfc3987_syntax"] = None
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # leave as Ctrl-C does: in order
    try:
        from .engine.command import main

        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted; finished cells are kept, the same command goes on from there", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
