"""Measured comparisons: ratios within one run, printed; nothing here is a test of pass or fail."""
