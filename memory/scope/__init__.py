"""Whether a query asks for a fact, decided by words and keys."""
