"""The "kalman" predictor of Dynamo's planner (github.com/ai-dynamo/dynamo, Apache-2.0, ``planner/core/load/predictors.py`` and its
defaults, read in mid 2026), written anew: a level and a trend, both of which wander, seen through noise."""

from __future__ import annotations

import msgspec

_LEVEL, _TREND, _NOISE = 1.0, 0.1, 10.0
"""``kalman_q_level``, ``kalman_q_trend``, ``kalman_r``."""
_UNKNOWN = 1000.0


class LocalTrend(msgspec.Struct, frozen=True):
    """What is believed after every interval's value."""

    level: float | None = None
    """None before the first one."""
    trend: float = 0.0
    spread: tuple[float, float, float] = (_UNKNOWN, 0.0, _UNKNOWN)
    """Variance of the level, covariance of both, variance of the trend."""

    @property
    def next(self) -> float:
        """The level that is expected of the next interval; 0 where nothing has been seen."""
        return 0.0 if self.level is None else max(0.0, self.level + self.trend)

    def seen(self, value: float) -> LocalTrend:
        """After one more interval."""
        if self.level is None:
            return LocalTrend(value)
        level_var, both, trend_var = self.spread
        level_var, both, trend_var = level_var + 2 * both + trend_var + _LEVEL, both + trend_var, trend_var + _TREND
        to_level, to_trend = level_var / (level_var + _NOISE), both / (level_var + _NOISE)
        off = value - self.level - self.trend
        return LocalTrend(
            self.level + self.trend + to_level * off,
            self.trend + to_trend * off,
            ((1 - to_level) * level_var, (1 - to_level) * both, trend_var - to_trend * both),
        )
