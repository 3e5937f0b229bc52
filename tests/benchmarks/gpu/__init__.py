"""What the card gives a trial: one command measures it all, see `tests.benchmarks.gpu.__main__`."""
