"""Pages for people: templates without scripts, under headers that let nobody frame or feed them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jinja2
from starlette.responses import Response

_FOLDER = Path(__file__).parent / "pages"
_STYLE = (_FOLDER / "style.css").read_text("utf-8")
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()


PRIVATE = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # With no-referrer browsers send `Origin: null` with our own forms (Fetch standard, 3.2).
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "publickey-credentials-get=()",
}
"""Headers of whatever a signed-in browser is answered, redirects too."""


ANY_SITE = "https:"
"""The CSP source for forms that end beyond us: a client may send its user on, and an authorization server
has people sign in elsewhere. Chromium holds each redirect to `form-action`, not only the first."""


class Pages:
    """Templates of `folders`, and of this room where those have none of a name."""

    def __init__(self, *folders: Path) -> None:
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader([*folders, _FOLDER]),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._templates.globals["style"] = _STYLE

    def page(
        self, name: str, status: int = 200, *, form_action: Collection[str] = (), **values: Any
    ) -> Response:
        """The template `{name}.html` with `values`, all of which are escaped.

        `form_action` are CSP sources beyond our own origin that a form of this page may end at:
        browsers hold the redirects after a POST to it as well (CSP 3, section 6.4.2).
        """
        body = self._templates.get_template(f"{name}.html").render(values)
        targets = " ".join(["'self'", *form_action])
        policy = (
            f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action {targets}; "
            "frame-ancestors 'none'; base-uri 'none'"
        )
        headers = {**PRIVATE, "Content-Security-Policy": policy}
        return Response(body, status, headers, "text/html; charset=utf-8")


page = Pages().page


def problem_page(status: int, title: str, text: str, *, again: str | None = None) -> Response:
    """What went wrong, and what helps; `again` is a local path to try once more at."""
    return page("problem", status, title=title, text=text, again=again)
