"""Content embedded in HTML pages: JSON, scripts and their digests for the security policy."""

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PAGE = Path(__file__).parent / "page"
WHOLE_SCRIPT = (_PAGE / "whole.js").read_text(encoding="utf-8")
"""First script of a page: it says if the rest of the page is damaged."""
SHARED_STYLE = (_PAGE / "shared.css").read_text(encoding="utf-8")
"""First part of the style of a page: colours, controls and messages."""


def digest(text: str) -> str:
    """Return the digest of a script or style element, as a content security policy contains it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def script_json(values: Mapping[str, Any]) -> str:
    """Return JSON that is safe inside a script element: nothing in it can end the element."""
    text = json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
