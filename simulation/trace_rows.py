"""Lines of a trace file, packed or not, as rows that check what they are asked for and name FILE:LINE where it is wrong."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from core.errors import ConfigError

_MOST_TOKENS = 1_000_000_000
_MOST_S = 1e11
"""Beyond the year 5000: dates in milliseconds that were taken for seconds."""
_UNPACK = ((b"\xfd7zXZ\x00", lzma.decompress), (b"\x1f\x8b", gzip.decompress))
"""By how a packed file begins."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line. What it raises is ConfigError."""

    where: str
    fields: Mapping[str, object]

    def only(self, known: Collection[str]) -> None:
        """Refuses columns of other names."""
        if unknown := [str(name) for name in self.fields if name not in known]:
            raise ConfigError(f"has `{unknown[0]}`, which is unknown; it takes {', '.join(known)}", self.where)

    def tokens(self, name: str) -> int:
        number = self._number(name)
        if not number.is_integer() or not 0 <= number <= _MOST_TOKENS:
            raise self._wrong(name, "a whole number of tokens, from 0 on", f"at most {_MOST_TOKENS:,}" * (number > _MOST_TOKENS))
        return int(number)

    def seconds(self, name: str, in_a_second: int = 1) -> float:
        """``in_a_second``: of the units that the file counts in."""
        value_s = self._number(name) / in_a_second
        if not abs(value_s) < _MOST_S:  # also where it is no number at all
            raise self._wrong(
                name, "a time in seconds" if in_a_second == 1 else f"a time in 1/{in_a_second} s", f"finite and below {_MOST_S:.0e}"
            )
        return value_s

    def date_s(self, name: str) -> float:
        """Of a date and time, in seconds."""
        try:
            # Seven decimals; Python's dates have six.
            return datetime.fromisoformat(str(self._value(name))[:26]).timestamp()
        except (ValueError, OverflowError, OSError):
            raise self._wrong(name, "a date and time, such as 2023-11-16 18:17:03.9799600") from None

    def blocks(self, name: str) -> tuple[int, ...]:
        """Empty where it says nothing of them."""
        found = self.fields.get(name, ())
        if not isinstance(found, list | tuple) or not all(type(each) is int for each in found):
            raise self._wrong(name, "a list of whole numbers")
        return tuple(found)

    def text(self, name: str) -> str:
        return str(self.fields.get(name) or "")

    def _number(self, name: str) -> float:
        value = self._value(name)
        try:
            return float("nan") if isinstance(value, bool) or not isinstance(value, str | int | float) else float(value)
        except (ValueError, OverflowError):
            return float("nan")

    def _value(self, name: str) -> object:
        if (value := self.fields.get(name)) is None:
            raise ConfigError(f"has no `{name}`; it has {', '.join(map(str, self.fields)) or 'nothing'}", self.where)
        return value

    def _wrong(self, name: str, rule: str, more: str = "") -> ConfigError:
        given = repr(self.fields[name])
        return ConfigError(f"`{name}` has to be {rule}{more and f', {more}'}; it is {given[:60]}", self.where)


def text_of(path: Path) -> str:
    """Of a file as it is, or packed by xz or gzip. Raises ConfigError."""
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", str(path)) from None
    try:
        for begin, unpack in _UNPACK:
            if packed.startswith(begin):
                packed = unpack(packed)
                break
        return packed.decode("utf-8-sig")
    except (lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        raise ConfigError(f"is packed, and damaged: {error}", str(path)) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"is no text: {error.reason} at byte {error.start}. It may be packed by xz or gzip", str(path)) from None


def json_rows(text: str, name: str) -> Iterator[Row]:
    """``name`` is what messages call the file."""
    for number, line in enumerate(io.StringIO(text), start=1):
        where = f"{name}:{number}"
        if line.strip():
            try:
                fields = json.loads(line)
            except json.JSONDecodeError as error:
                raise ConfigError(f"is no JSON: {error.msg}, at column {error.colno}", where) from None
            except (ValueError, RecursionError) as error:  # a number too long, or too many brackets
                raise ConfigError(f"is no JSON: {error}", where) from None
            if not isinstance(fields, dict):
                raise ConfigError("is no JSON object; each line has to be one, in braces", where)
            yield Row(where, fields)


def csv_rows(text: str, name: str, needed: Collection[str]) -> Iterator[Row]:
    """Likewise, of lines behind the first, which names the columns, those that are ``needed`` among them."""
    lines = csv.reader(io.StringIO(text), skipinitialspace=True)
    try:
        columns = [column.strip() for column in next(lines, [])]
        if missing := [column for column in needed if column not in columns]:
            raise ConfigError(f"names no column `{missing[0]}`; it names {', '.join(columns) or 'none'}", f"{name}:1")
        for cells in lines:
            where = f"{name}:{lines.line_num}"
            if len(cells) > len(columns):
                raise ConfigError(f"has {len(cells)} columns, of which the first line names {len(columns)}", where)
            if cells:
                yield Row(where, dict(zip(columns, cells, strict=False)))
    except csv.Error as error:
        raise ConfigError(f"is no CSV: {error}", f"{name}:{lines.line_num}") from None
