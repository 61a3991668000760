"""What `make bench` measures: each figure beside its peer, in one run. Never a timed assertion."""
