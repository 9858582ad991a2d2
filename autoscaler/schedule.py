"""Which limits hold now."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import msgspec

from autoscaler.policy import PoolLimits, ScalerLimits
from core.week import holds
from core.worker import Role


def limits_at(limits: ScalerLimits, role: Role, now_s: float) -> tuple[PoolLimits, str]:
    """A pool's limits at a time in Unix seconds, and the windows that made them so; "" for none."""
    pool, applied = limits.pool(role), []
    if not limits.windows:
        return pool, ""
    local = datetime.fromtimestamp(now_s, UTC).astimezone(ZoneInfo(limits.time_zone))
    for window in limits.windows:
        if window.role in (None, role) and holds(window.start, window.end, window.days, local.weekday(), local.hour * 60 + local.minute):
            least = pool.min_workers if window.min_workers is None else window.min_workers
            most = pool.max_workers if window.max_workers is None else window.max_workers
            # A window that says one of them may contradict the other: it wins.
            if window.min_workers is None:
                least = min(least, most)
            pool = msgspec.structs.replace(pool, min_workers=least, max_workers=max(least, most))
            applied.append(f"{window.start}-{window.end}")
    return pool, ", ".join(applied)
