"""Faults injected into running studies: everything survives, and the results are those of an undisturbed run."""
