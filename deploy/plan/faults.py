"""All that is wrong with a question, so that it is said in one go."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from core.errors import ConfigError

P = ParamSpec("P")
T = TypeVar("T")


class Faults:
    """Filled by what raises ConfigError, in the order in which it is looked at; what it says twice is kept once."""

    def __init__(self) -> None:
        self._said: dict[str, None] = {}

    def of(self, check: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """What it returns; None where it found a fault."""
        try:
            return check(*args, **kwargs)
        except ConfigError as error:
            self.add(error.rule, error.where)
            return None

    def add(self, rule: str, where: str) -> None:
        """Where nothing has to be looked up to see it."""
        self._said[str(ConfigError(rule, where))] = None

    def refuse(self) -> None:
        """Raises ConfigError with a line for each, where there are any."""
        if self._said:
            raise ConfigError("\n".join(self._said))
