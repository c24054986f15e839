"""From values to a page: what the pages of reports, comparisons and sweeps share.

A page is one file: styles, script and drawings stand in it, and its content policy forbids the
browser to fetch anything. Names from an engine are text wherever they go: the templates escape.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeattn.errors import MissingDependencyError

_FOLDER = Path(__file__).parent


def render(template: str, values: Mapping[str, Any]) -> str:
    """Fill a template of this folder.

    Args:
        template: `NAME.html.j2`, which extends `base.html.j2`. Where `NAME.css` and `NAME.js`
            stand beside it, they follow the style and the script that all pages have.
        values: What the template names, and `title`, `kind`, `subtitle` and `version` for the
            base.

    Raises:
        MissingDependencyError: If jinja2 is not installed.
    """
    require_jinja2()
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    name = template.removesuffix(".html.j2")
    script = _shared_and_own("page.js", f"{name}.js")
    shared = {
        "style": _shared_and_own("page.css", f"{name}.css"),
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    return environment.get_template(template).render({**values, **shared})


def require_jinja2() -> None:
    """Make sure that a page can be made, before work that takes long.

    Raises:
        MissingDependencyError: If jinja2 is not installed.
    """
    if importlib.util.find_spec("jinja2") is None:
        raise MissingDependencyError(
            "the HTML page needs jinja2, which is not installed",
            "pip install 'edgeattn[report]'",
        )


def _shared_and_own(shared: str, own: str) -> str:
    files = [_FOLDER / shared, _FOLDER / own]
    return "".join(file.read_text(encoding="utf-8") for file in files if file.is_file())
