"""`larimar settings`: every setting, its default and what it does, as a Markdown table."""

from __future__ import annotations

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from app.server.settings import PREFIX, Settings

HEAD = "| setting | default | what it does |\n|---|---|---|"
_SIGNS = {Ge: ("≥", "ge"), Gt: (">", "gt"), Le: ("≤", "le"), Lt: ("<", "lt")}


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None or field.default in (None, ""):
        return ""
    return f"`{int(field.default) if isinstance(field.default, bool) else field.default}`"


def _bounds(field: FieldInfo) -> str:
    found = [f"{sign} {getattr(m, name):.10g}" for m in field.metadata for kind, (sign, name) in _SIGNS.items() if isinstance(m, kind)]
    return f" ({', '.join(found)})" if found else ""


def table() -> str:
    """The Markdown table of all settings, in the order of the fields."""
    rows = [
        f"| `{PREFIX}{name.upper()}` | {_default(field)} | {(field.description or '').replace('|', '/')}{_bounds(field)} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join([HEAD, *rows])
