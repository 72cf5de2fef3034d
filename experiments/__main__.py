"""python -m experiments: what `experiments.engine.command` says, as a program.

Dask's worker processes import this module once more under another name, so it loads nothing by itself.
"""

import os
import signal
import sys

if __name__ == "__main__":
    for stream in range(3):  # where a shell has closed one (`>&-`), kernels and workers get an empty one
        try:
            os.fstat(stream)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number that is free
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8")  # noqa: SIM115
    # jsonschema builds a grammar of web addresses while nbformat loads it, for seconds; notebooks need none.
    sys.modules["rfc3987_syntax"] = None
    for name in ("SIGTERM", "SIGHUP"):  # leave as Ctrl-C does: in order
        ending = getattr(signal, name, signal.SIGTERM)  # Windows has no SIGHUP
        if signal.getsignal(ending) is not signal.SIG_IGN:  # as under nohup
            signal.signal(ending, lambda number, _: sys.exit(128 + number))
    try:
        from .engine.command import main

        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted; finished cells are kept, the same command goes on from there", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
