"""The inference thread: the only one that runs torch."""
