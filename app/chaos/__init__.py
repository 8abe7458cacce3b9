"""Faults made on purpose, and whether what was acknowledged outlives them."""
