"""How a plan says what it was made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from autoscaler.capacity import Shape
from autoscaler.demand import Demand
from autoscaler.forecast import Forecast
from autoscaler.outlook import Outlook
from autoscaler.plan import PoolReport
from autoscaler.signals import Phase, Signals
from autoscaler.sizing import Need
from core.worker import Role


@dataclass(slots=True)
class Findings:
    """Of one role, as far as there are any."""

    demand_tokens_per_s: float | None = None
    forecast: Forecast | None = None
    horizon_s: float | None = None
    backlog_tokens: float | None = None
    worker_tokens_per_s: float | None = None
    wanted_now: int | None = None
    wanted: int | None = None
    within_limits: int | None = None
    clamps: list[str] = field(default_factory=list)
    limited: bool = False


def find(
    findings: Mapping[Role, Findings], asked: Demand, shape: Shape, ahead: Mapping[Role, tuple[Forecast, float]], outlook: Outlook
) -> None:
    """Writes down what was seen; ``ahead`` are forecasts with their horizons."""
    for role, found in findings.items():
        found.demand_tokens_per_s = asked.tokens_per_s(role, shape)
        found.forecast, found.horizon_s = ahead[role]
        found.worker_tokens_per_s = _worker_tokens_per_s(outlook.now, role)
        found.wanted_now, found.wanted = outlook.now.counts()[role], outlook.then.counts()[role]
    findings[Role.PREFILL].backlog_tokens = outlook.now.load.backlog_tokens


def pool_report(role: Role, signals: Signals, target: int, found: Findings) -> PoolReport:
    """For people and machines."""
    phases = {phase: len(signals.of(role, phase)) for phase in Phase}
    forecast = found.forecast
    return PoolReport(
        role,
        phases[Phase.READY],
        phases[Phase.STARTING],
        target,
        phases[Phase.SLEEPING],
        phases[Phase.DRAINING],
        found.demand_tokens_per_s,
        None if forecast is None else forecast.value + forecast.margin,
        "" if forecast is None else forecast.method,
        found.horizon_s,
        found.backlog_tokens,
        found.worker_tokens_per_s,
        found.wanted_now,
        found.wanted,
        tuple(found.clamps),
        found.within_limits,
        found.limited,
    )


def warnings(need: Need, tpot_s: float, counts: Mapping[Role, int]) -> list[str]:
    """What cannot be reached with any number of workers, with so many, or for all that is known."""
    texts: list[str] = []
    prompt, prefill, decode = need.load.shape.prompt_tokens, need.prefill, need.decode
    if prefill is not None and prefill.alone_s > need.ttft_s:
        texts.append(
            f"a mean prompt of {prompt:.0f} tokens takes {prefill.alone_s:.2f} s alone, and {need.ttft_s:g} s to the first token are "
            "promised: no number of workers keeps that; there are enough that no queue grows"
        )
    if decode is not None and not decode.keeps:
        texts.append(
            f"a step with one request takes more than the {tpot_s * 1000:g} ms that are promised per token: no number of workers keeps "
            "that; there are enough for steps twice as long as with one"
        )
    texts += [
        f"nobody has measured yet how fast {role} is" for role, does in ((Role.PREFILL, prefill), (Role.DECODE, decode)) if does is None
    ]
    share = need.share(counts)
    if share < 1:
        texts.append(f"what may be started keeps up with {share:.0%} of the demand that is expected")
    return texts


def _worker_tokens_per_s(need: Need, role: Role) -> float | None:
    if role is Role.PREFILL:
        does = need.prefill
        return None if does is None else need.utilisation * max(1.0, need.load.shape.uncached_tokens) / does.busy_s
    return None if need.decode is None else need.decode.batch / need.decode.step_s
