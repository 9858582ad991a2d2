"""API keys: read, recognised, changed without a restart, and never told to anybody."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from core.errors import ConfigError
from core.router_config import ApiKeysConfig
from router.keys import SHORTEST, KeyRing, parse_keys

ONE, TWO = "s1-0123456789abcdef", "s2-0123456789abcdef"


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
    "name=key": (f"alice={ONE}", {ONE: "alice"}),
    "just keys, called by their place": (f"{ONE}\n{TWO}", {ONE: "key-1", TWO: "key-2"}),
    "commas, blanks and comments": (f"# clients\n a = {ONE} , b={TWO} # old, c={ONE}\n\t# more\n,", {ONE: "a", TWO: "b"}),
    "a # within a key is a part of it": (f"alice=pa#ss{ONE},bob={TWO}#", {f"pa#ss{ONE}": "alice", f"{TWO}#": "bob"}),
    "base64 keys end in =": (f"bob={ONE}==\nc={TWO}=", {f"{ONE}==": "bob", f"{TWO}=": "c"}),
    "the same line twice": (f"a={ONE}\na={ONE}", {ONE: "a"}),
    "two keys of one client, while it changes them": (f"a={ONE}\na={TWO}", {ONE: "a", TWO: "a"}),
    "the shortest": (f"a={'x' * SHORTEST}", {"x" * SHORTEST: "a"}),
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
    "a blank in a key": f"a={ONE} {TWO}",
    "one key of two clients": f"a={ONE}\nb={ONE}",
    "no ASCII": f"a={ONE}schlüssel",
    "a name that is none": f"a b={ONE}",
    "too short": f"a={'x' * (SHORTEST - 1)}",
    "too short and without a name": "secret",
}
UNSET = {
    "no key": "alice=",
    "no key yet": "alice=  # to be set",
    "no key yet, with commas": f"bob={ONE},alice = ,",
    "a long name": "the-name-of-a-long-running-client=",
    "signs only": "alice=" + "=" * SHORTEST,
    "no name": f"={ONE}",
    "base64 without a name": f"{ONE}==",
}


@pytest.mark.parametrize("text", [*WRONG.values(), *UNSET.values()], ids=[*WRONG, *UNSET])
def test_what_cannot_be_used_is_refused_without_telling_keys(text: str) -> None:
    """The message names the entry, never what is in it."""
    with pytest.raises(ConfigError) as caught:
        parse_keys(text, "router.api_keys.file (k)")
    assert "router.api_keys.file" in str(caught.value)
    assert not [secret for secret in (ONE, TWO, "xxx", "secret", "schlüssel") if secret in str(caught.value)]


@pytest.mark.parametrize("text", UNSET.values(), ids=UNSET.keys())
def test_an_entry_without_a_key_is_no_key(text: str) -> None:
    """A name alone would open the door to whoever types it. The message says what to write."""
    with pytest.raises(ConfigError, match=r"name=key.*openssl rand -hex 32"):
        parse_keys(text, "router.api_keys.file (k)")


def test_a_place_that_is_not_there_keeps_the_router_from_starting(tmp_path: Path) -> None:
    """Keys were wanted: serving without them would be worse than not serving."""
    for place in (ApiKeysConfig(file=str(tmp_path / "none")), ApiKeysConfig(file=str(tmp_path)), ApiKeysConfig(env="NOT_SET")):
        with pytest.raises(ConfigError, match=r"router\.api_keys"):
            KeyRing(place, environment={})


def test_keys_from_the_environment() -> None:
    """The variable holds what a file would."""
    assert KeyRing(ApiKeysConfig(env="KEYS"), environment={"KEYS": f"a={ONE},b={TWO}"}).name_of(TWO) == "b"


def test_a_changed_file_is_read_again_within_a_second(tmp_path: Path) -> None:
    """New keys come, old ones go, without a restart; between two looks the file is not touched."""
    clock, path = Clock(), tmp_path / "keys"
    ring = ring_of(path, f"a={ONE}", clock)
    write(path, f"a={TWO}", 2)
    clock.now_s = 0.9
    assert (ring.name_of(ONE), ring.name_of(TWO)) == ("a", None)
    clock.now_s = 1.0
    assert (ring.name_of(ONE), ring.name_of(TWO)) == (None, "a")


@pytest.mark.parametrize("how", ["gone", "empty", "a directory"])
def test_a_file_that_becomes_unusable_changes_nothing(tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    """The keys stay as they were, a warning is logged, and the file is read when it is whole again."""
    clock, path = Clock(), tmp_path / "keys"
    ring = ring_of(path, f"a={ONE}", clock)
    path.unlink()
    if how == "empty":
        write(path, "", 2)
    elif how == "a directory":
        path.mkdir()
    clock.now_s = 5.0
    with caplog.at_level(logging.WARNING):
        assert ring.name_of(ONE) == "a"
    assert "stay as they were" in caplog.text
    if how == "a directory":
        path.rmdir()
    write(path, f"a={TWO}", 3)
    clock.now_s = 10.0
    assert (ring.name_of(ONE), ring.name_of(TWO)) == (None, "a")


def test_a_file_that_everybody_can_read_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It works all the same: it may be meant."""
    path = tmp_path / "keys"
    write(path, f"a={ONE}", 1)
    path.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        assert KeyRing(ApiKeysConfig(file=str(path))).name_of(ONE) == "a"
    assert "chmod 600" in caplog.text


def test_no_key_is_kept_or_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither in the object nor in the log."""
    with caplog.at_level(logging.DEBUG):
        ring = ring_of(tmp_path / "keys", f"alice={ONE}")
        ring.name_of(TWO)
    assert "0123456789abcdef" not in repr(vars(ring)) + caplog.text
