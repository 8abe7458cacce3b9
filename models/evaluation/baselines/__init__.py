"""Gradient-based editing as users would do it, to measure ours against."""
