"""Pages of a paper: which trials, and which published numbers to lay beside them."""
