"""What the controller tells of the autoscaler: what it was told, what it made of that, and what it did. Nothing of it where none runs."""

from __future__ import annotations

from core.metrics import bounds
from core.metrics.entry import counter, gauge, histogram
from core.metrics.words import ScalingAction, ScalingInput, values

INPUT = gauge(
    "baton_scaling_input",
    ("quantity",),
    f"What the newest plan was made from; missing where nobody says. `quantity`: {values(ScalingInput)}",
    "`arrivals_per_s`, `waiting_tokens` or `decoding` missing: the plan is held; docs/scaling.md",
)
INPUT_AGE = gauge(
    "baton_scaling_input_age_seconds",
    (),
    "How old the oldest of it was",
    "near `autoscaling.stale_s`: a router does not answer scrapes, or Prometheus scrapes too rarely",
)
HELD = gauge(
    "baton_scaling_held",
    (),
    "1 where the newest plan was to leave everything as it is, for want of numbers",
    "1 for longer than a minute: `baton scaling` says what is missing",
)
DEMAND = gauge(
    "baton_scaling_demand_tokens_per_second",
    ("role",),
    "The work of a role that is asked for now: prompt tokens to compute, or output tokens",
    "what the pools are sized for",
)
FORECAST = gauge(
    "baton_scaling_forecast_tokens_per_second",
    ("role",),
    "The same when a worker that is started now is ready, with a margin for the usual error",
    "far from what the demand then is: `autoscaling.forecast`; docs/scaling.md",
)
HORIZON = gauge(
    "baton_scaling_horizon_seconds", ("role",), "How far ahead that is: what a worker takes to start", "longer than it was: see its starts"
)
CAPACITY = gauge(
    "baton_scaling_worker_tokens_per_second",
    ("role",),
    "What one worker does at most within the objective, by the steps it has measured",
    "falls: longer contexts, slower steps, or a tighter objective",
)
NEEDED = gauge(
    "baton_scaling_needed_workers",
    ("role",),
    "Workers for the forecast, before limits and budget",
    "above the target: limits or the budget hold it back, or a worker of the other role will be relabelled",
)
TARGET = gauge("baton_scaling_target_workers", ("role",), "Workers once the newest plan is carried out", "see `baton scaling` for why")
CLAMPED = gauge(
    "baton_scaling_clamped",
    ("role",),
    "1 where `max`, a schedule's or not, or the budget keeps that below what is needed",
    "1 while requests are refused: raise `max` or `gpu_budget`",
)
WARNINGS = gauge(
    "baton_scaling_warnings",
    (),
    "How many things the newest plan says cannot be reached, or were assumed",
    "above 0 for long: read them, `baton scaling`",
)
ACTIONS = counter(
    "baton_scaling_actions_total",
    ("kind", "role"),
    f"Workers that plans did something with; in a dry run, would have, told once each. `kind`: {values(ScalingAction)}",
    "`relabel` to and fro: raise `autoscaling.relabel_rest_s`; `add` and `drain` in turns: set `shrink_after_s`, higher",
)
FAILED_ACTIONS = counter(
    "baton_scaling_failed_actions_total", ("kind",), "Those of them that could not be done", "any again and again: the controller's log"
)
FAILED_ROUNDS = counter(
    "baton_scaling_failed_rounds_total", (), "Rounds of the scaler's loop that raised", "any: the controller's log; report it"
)
PLAN = histogram("baton_scaling_plan_seconds", (), bounds.LOOP_S, "Seconds that a plan took to make", "above 0.1 s: report it")

OF_SCALING = (
    *(INPUT, INPUT_AGE, HELD, DEMAND, FORECAST, HORIZON, CAPACITY, NEEDED, TARGET, CLAMPED, WARNINGS),
    *(ACTIONS, FAILED_ACTIONS, FAILED_ROUNDS, PLAN),
)
