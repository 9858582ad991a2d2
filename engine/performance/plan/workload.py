"""What is asked for, and what is promised."""

from __future__ import annotations

import msgspec

from core.errors import ConfigError


class Prompt(msgspec.Struct, frozen=True):
    """A prompt, or what many are like: tokens to be computed, and those before them that are cached where it is computed."""

    new_tokens: int
    cached_tokens: int = 0


class Workload(msgspec.Struct, frozen=True):
    """Requests at random times: of one size, or as different as the last three fields say."""

    input_tokens: int
    """Of a prompt, on average."""
    output_tokens: int
    hit_rate: float = 0.0
    """Share of a prompt that is cached where it is computed."""
    prompts: tuple[Prompt, ...] = ()
    """What prompts are like, each as frequent as the others; none: all alike."""
    answering_tokens: float = 0.0
    """Context of a request that is being answered, on average over time, long answers counting as long as they take; 0: as sizes say."""
    answer_variation: float = 0.0
    """Variance of answers' lengths over their mean's square."""

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
    def sizes(self) -> tuple[Prompt, ...]:
        """At least one."""
        return self.prompts or (Prompt(self.new_tokens, self.cached_tokens),)

    @property
    def context_tokens(self) -> float:
        """Of a request that is being answered, on average over its answer."""
        return self.answering_tokens or self.input_tokens + self.output_tokens / 2.0

    @property
    def full_tokens(self) -> float:
        """Of such a request when its answer is complete."""
        return self.context_tokens + self.output_tokens / 2.0


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
