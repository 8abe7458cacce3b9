"""Logging: JSON lines on standard error."""

from __future__ import annotations

import logging
import sys
import traceback

import structlog

log = structlog.get_logger()


def traceback_of(error: BaseException) -> str:
    """Frames and kinds of an exception, of those in its group and of its cause; not their messages, which may quote a text."""
    about = "".join(traceback.format_tb(error.__traceback__)) + type(error).__qualname__
    members: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    about += "".join(f"\nin it:\n{traceback_of(member)}" for member in members)
    return about if cause is None else f"{about}\ncaused by:\n{traceback_of(cause)}"


def log_defect(error: BaseException) -> None:
    """Log an exception that nothing accounts for, with its traceback."""
    log.error("failed", error=type(error).__name__, traceback=traceback_of(error))


def configure(level: str) -> None:
    """Route structlog and the standard library's warnings to JSON lines."""
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
