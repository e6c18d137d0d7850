"""A hook of mkdocs: docstrings name code with roles, as in ``:meth:`~Network.encode```; pages show the code alone."""

from __future__ import annotations

import re
from typing import Any

_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):<code>(~?)([\w.]+)</code>")


def on_page_content(html: str, **_: Any) -> str:
    """The page without roles; a leading tilde leaves only the last part of a name, as in Sphinx."""
    return _ROLE.sub(lambda match: f"<code>{match[2].rpartition('.')[2] if match[1] else match[2]}</code>", html)
