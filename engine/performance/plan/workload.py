"""What is asked for, and what is promised."""

from __future__ import annotations

import msgspec

from core.errors import ConfigError


class Workload(msgspec.Struct, frozen=True):
    """Requests of one size, at random times."""

    input_tokens: int
    output_tokens: int
    hit_rate: float = 0.0
    """Share of a prompt that is cached where it is computed."""

    def __post_init__(self) -> None:
        for name in ("input_tokens", "output_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError("must be at least 1", name)
        if not 0.0 <= self.hit_rate < 1.0:
            raise ConfigError("must be at least 0 and below 1", "hit_rate")

    @property
    def new_tokens(self) -> int:
        """Of a prompt, to be computed."""
        return max(1, round(self.input_tokens * (1.0 - self.hit_rate)))

    @property
    def cached_tokens(self) -> int:
        return self.input_tokens - self.new_tokens

    @property
    def context_tokens(self) -> float:
        """Of a request that is being answered, on average over its answer."""
        return self.input_tokens + self.output_tokens / 2.0


class Objectives(msgspec.Struct, frozen=True):
    """Promised for ``share`` of the requests."""

    ttft_s: float
    tpot_s: float
    share: float = 0.9

    def __post_init__(self) -> None:
        for name in ("ttft_s", "tpot_s"):
            if not getattr(self, name) > 0.0:
                raise ConfigError("must be above 0", name)
        if not 0.0 < self.share < 1.0:
            raise ConfigError("must be above 0 and below 1", "share")
