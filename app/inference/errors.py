"""Why the inference thread refuses."""

from __future__ import annotations


class QueueFull(Exception):
    """The inference queue has no room."""


class NotReady(Exception):
    """The server is starting or draining."""
