"""The clients' API keys: which there are, and whose one is."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from core.errors import ConfigError
from core.router_config import ApiKeysConfig

log = logging.getLogger(__name__)

Digests = Mapping[bytes, str]
"""SHA-256 of a key, to the key's name. The keys themselves are forgotten as soon as they are read."""

SHORTEST = 16
"""Characters of a key. What can be guessed is none; `openssl rand -hex 32` makes 64."""

_CHECK_S = 1.0
_NAME = re.compile(r"[\w.@-]{1,64}")
_COMMENT = re.compile(r"(?:^|\s)#.*")
_FORM = (
    f"expected `name=key` or just `key` without `=`, separated by commas or new lines; a key has at least {SHORTEST} characters, "
    "`openssl rand -hex 32` makes one; ` #` begins a comment"
)


def parse_keys(text: str, where: str) -> Digests:
    """The keys in ``text``. One without a name is called ``key-1``, ``key-2``, by its place. Raises ConfigError, which tells no key.

    A key may hold ``=``, as base64 does, and ``#``. It needs a name then: of ``alice=`` nobody could say whether a key was forgotten.
    """
    digests: dict[bytes, str] = {}
    entries = [entry.strip() for line in text.splitlines() for entry in _COMMENT.sub("", line).split(",") if entry.strip()]
    for number, entry in enumerate(entries, start=1):
        before, named, behind = entry.partition("=")
        name, key = (before.strip(), behind.strip()) if named else (f"key-{number}", entry)
        if not _NAME.fullmatch(name):
            raise ConfigError(f"entry {number} has no name before its `=`; {_FORM}", where)
        if not key.strip("="):
            raise ConfigError(f"entry {number} has a name and no key; {_FORM}", where)
        if len(key.split()) != 1 or not key.isprintable() or not key.isascii():
            raise ConfigError(f"entry {number} is not a key; {_FORM}", where)
        if len(key) < SHORTEST:
            raise ConfigError(f"entry {number} is too short for a key; {_FORM}", where)
        if digests.setdefault(_digest(key), name) != name:
            raise ConfigError(f"entries of {digests[_digest(key)]} and {name} are one key; give each client its own", where)
    if not digests:
        raise ConfigError(f"has no key in it, so nobody could get in; {_FORM}. Or remove `router.api_keys`", where)
    return digests


class KeyRing:
    """Knows the keys that an environment variable or a file holds. A file is read again when it has changed.

    Raises ConfigError at construction when there is nothing to read. Later a file that cannot be read leaves the keys as
    they were: better a key too many for a while than everybody locked out by half a deployment.
    """

    def __init__(
        self, place: ApiKeysConfig, environment: Mapping[str, str] = os.environ, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = Path(place.file) if place.file else None
        self._clock = clock
        self._checked_s = clock()
        self._seen: tuple[int, int, int] | None = None
        if self._path is not None:
            self._digests = self._read(self._path)
        else:
            name = place.env or ""
            if name not in environment:
                raise ConfigError(
                    f"is not set where the routers run; set `{name}` there, or name a `file`", f"router.api_keys.env ({name})"
                )
            self._digests = parse_keys(environment[name], f"router.api_keys.env ({name})")

    def name_of(self, key: str) -> str | None:
        """Whose key it is, or None. Takes equally long for every key that is not one."""
        self._refresh()
        given, found = _digest(key), None
        for digest, name in self._digests.items():
            if hmac.compare_digest(given, digest):
                found = name
        return found

    def _refresh(self) -> None:
        if self._path is None or self._clock() - self._checked_s < _CHECK_S:
            return
        self._checked_s = self._clock()
        try:
            if _version(self._path) != self._seen:
                self._digests = self._read(self._path)
                log.info("keys: read %s again: %d keys", self._path, len(self._digests))
        except (OSError, ConfigError) as error:
            log.warning("keys: %s cannot be used, so the keys stay as they were: %s", self._path, error)

    def _read(self, path: Path) -> Digests:
        where = f"router.api_keys.file ({path})"
        try:
            self._seen = _version(path)  # before the text: a change in between is then seen next time
            mode = path.stat().st_mode
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot be read by the router: {getattr(error, 'strerror', None) or 'it is not text'}", where) from None
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            log.warning("keys: everybody on this machine may read or change %s; `chmod 600` it", path)
        return parse_keys(text, where)


def _version(path: Path) -> tuple[int, int, int]:
    """Changes when the file does, also when another one has been put in its place."""
    found = path.stat()
    return found.st_mtime_ns, found.st_ino, found.st_size


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()
