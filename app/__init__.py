"""Larimar Server: the HTTP service and its command line."""

__version__ = "0.1.0"
