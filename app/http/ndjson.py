"""JSON that is one line for whoever reads it."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

# JSON escapes other control characters. These may stand in its strings, and many readers (str.splitlines, httpx) end a line there.
_ENDS = str.maketrans({end: f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"})


def line_of(data: BaseModel | dict[str, Any]) -> str:
    """A model, without the fields that are None, or a dictionary as it is."""
    if isinstance(data, BaseModel):
        return data.model_dump_json(exclude_none=True).translate(_ENDS)
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).translate(_ENDS)
