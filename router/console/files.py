"""The page itself: files of this package, read once. What is in it is the same for everybody, so they are served without a key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

HEADERS: Mapping[str, str] = {
    # Nothing from elsewhere, nothing inline, nobody's frame; and no text can become markup: what takes markup takes no strings.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


PAGE = "/console"
"""The document. What it asks for lies below, so that its links hold behind any route prefix."""
WITH_SLASH = f"{PAGE}/"
"""As some people write it; links of the page would go wrong from there, so they are sent to the one without."""


def _read() -> dict[str, tuple[str, bytes]]:
    files = sorted((Path(__file__).parent / "page").iterdir())
    return {_path(file): (_TYPES[file.suffix], file.read_bytes()) for file in files}


def _path(file: Path) -> str:
    return PAGE if file.name == "index.html" else f"{PAGE}/{file.name}"


FILES: Mapping[str, tuple[str, bytes]] = _read()
"""Media type and content by path."""
