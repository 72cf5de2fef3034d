"""Speed and memory, always beside the peers and in one run: `make bench`."""
