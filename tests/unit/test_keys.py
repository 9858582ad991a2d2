"""API keys: read, recognised, changed without a restart, and never told to anybody."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from core.config import ApiKeysConfig
from core.errors import ConfigError
from router.keys import KeyRing, parse_keys


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def ring_of(path: Path, text: str, clock: Clock | None = None) -> KeyRing:
    write(path, text, 1)
    return KeyRing(ApiKeysConfig(file=str(path)), clock=clock or Clock())


def write(path: Path, text: str, version: int) -> None:
    """Written so that its time of change says ``version``, whatever the file system's clock can tell apart."""
    path.write_text(text)
    path.chmod(0o600)
    os.utime(path, ns=(version, version))


FORMS = {
    "name=key": ("alice=secret-1", {"secret-1": "alice"}),
    "just keys, called by their place": ("secret-1\nsecret-2", {"secret-1": "key-1", "secret-2": "key-2"}),
    "commas, blanks and comments": ("# clients\n a = s1 , b=s2 # old\n\n,", {"s1": "a", "s2": "b"}),
    "base64 keys end in =": ("bob=QUJD==\nREVG==", {"QUJD==": "bob", "REVG==": "key-2"}),
    "the same line twice": ("a=s1\na=s1", {"s1": "a"}),
    "two keys of one client, while it changes them": ("a=s1\na=s2", {"s1": "a", "s2": "a"}),
}


@pytest.mark.parametrize(("text", "keys"), FORMS.values(), ids=FORMS.keys())
def test_entries(tmp_path: Path, text: str, keys: dict[str, str]) -> None:
    """Every form of an entry, and that nothing but the whole key is taken."""
    ring = ring_of(tmp_path / "keys", text)
    assert {key: ring.name_of(key) for key in keys} == keys
    for key in keys:
        assert [ring.name_of(other) for other in (key[:-1], key + "x", key.upper() + "X", "")] == [None] * 4


WRONG = {
    "nothing": "",
    "comments only": "# a=b\n",
    "a blank in a key": "a=b c",
    "one key of two clients": "a=s1\nb=s1",
    "no ASCII": "a=schlüssel",
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_used_is_refused_without_telling_keys(text: str) -> None:
    """The message names the entry, never what is in it."""
    with pytest.raises(ConfigError) as caught:
        parse_keys(text, "router.api_keys.file (k)")
    assert "router.api_keys.file" in str(caught.value)
    assert not [secret for secret in ("s1", "b c", "schlüssel") if secret in str(caught.value)]


def test_a_place_that_is_not_there_keeps_the_router_from_starting(tmp_path: Path) -> None:
    """Keys were wanted: serving without them would be worse than not serving."""
    for place in (ApiKeysConfig(file=str(tmp_path / "none")), ApiKeysConfig(file=str(tmp_path)), ApiKeysConfig(env="NOT_SET")):
        with pytest.raises(ConfigError, match=r"router\.api_keys"):
            KeyRing(place, environment={})


def test_keys_from_the_environment() -> None:
    """The variable holds what a file would."""
    assert KeyRing(ApiKeysConfig(env="KEYS"), environment={"KEYS": "a=s1,b=s2"}).name_of("s2") == "b"


def test_a_changed_file_is_read_again_within_a_second(tmp_path: Path) -> None:
    """New keys come, old ones go, without a restart; between two looks the file is not touched."""
    clock, path = Clock(), tmp_path / "keys"
    ring = ring_of(path, "a=old", clock)
    write(path, "a=new", 2)
    clock.now_s = 0.9
    assert (ring.name_of("old"), ring.name_of("new")) == ("a", None)
    clock.now_s = 1.0
    assert (ring.name_of("old"), ring.name_of("new")) == (None, "a")


@pytest.mark.parametrize("how", ["gone", "empty", "a directory"])
def test_a_file_that_becomes_unusable_changes_nothing(tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    """The keys stay as they were, a warning is logged, and the file is read when it is whole again."""
    clock, path = Clock(), tmp_path / "keys"
    ring = ring_of(path, "a=old", clock)
    path.unlink()
    if how == "empty":
        write(path, "", 2)
    elif how == "a directory":
        path.mkdir()
    clock.now_s = 5.0
    with caplog.at_level(logging.WARNING):
        assert ring.name_of("old") == "a"
    assert "stay as they were" in caplog.text
    if how == "a directory":
        path.rmdir()
    write(path, "a=new", 3)
    clock.now_s = 10.0
    assert (ring.name_of("old"), ring.name_of("new")) == (None, "a")


def test_a_file_that_everybody_can_read_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It works all the same: it may be meant."""
    path = tmp_path / "keys"
    write(path, "a=s1", 1)
    path.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        assert KeyRing(ApiKeysConfig(file=str(path))).name_of("s1") == "a"
    assert "chmod 600" in caplog.text


def test_no_key_is_kept_or_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither in the object nor in the log."""
    with caplog.at_level(logging.DEBUG):
        ring = ring_of(tmp_path / "keys", "alice=secret-1")
        ring.name_of("secret-2")
    assert "secret-" not in repr(vars(ring)) + caplog.text
