"""python -m experiments: what `experiments.command` says, as a program.

Dask's worker processes import this module once more under another name, so it loads nothing by itself.
"""

import signal
import sys

if __name__ == "__main__":
    from .command import main

    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # leave as Ctrl-C does: in order
    sys.exit(main())
