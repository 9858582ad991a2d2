"""What the controller tells of the pools, and of itself."""

from __future__ import annotations

from core.metrics import bounds
from core.metrics.entry import counter, gauge, histogram
from core.metrics.words import End, values
from core.worker import WorkerState

WORKERS = gauge(
    "baton_pool_workers",
    ("role", "state"),
    f"Workers of a pool. `state`: {values(WorkerState)}; those that are gone are still to be replaced",
    "fewer `ready` than wanted for longer than a start takes: `baton status`",
)
WANTED = gauge(
    "baton_pool_wanted_workers",
    ("role",),
    "How many the pool is to have",
    "changes with the configuration, a relabelling, and with plans where the autoscaler runs",
)
STATE = gauge(
    "baton_pool_worker_state",
    ("worker", "role", "state"),
    "1 for the state that each worker is in: for joining, and for lists",
    "one stays `starting` or `draining`: `baton status` says what it is at",
)
STARTS = counter("baton_pool_starts_total", ("role",), "Workers that were asked for", "without restarts: the pool grows, or is renewed")
RESTARTS = counter(
    "baton_pool_restarts_total",
    ("role",),
    "Those of them that replace one that died",
    "grows again and again: `failures` in `baton status` says why they die",
)
ENDS = counter(
    "baton_pool_ends_total",
    ("role", "cause"),
    f"Workers that are gone. `cause`: {values(End)}",
    "`died`: its log. `silent`: the node, or the network. `start_timeout`: the model loads too slowly; `start_timeout_s`",
)
DRAINS = counter("baton_pool_drains_total", ("role",), "Workers that were asked to go, or asked to", "see docs/draining.md")
DRAIN = histogram(
    "baton_pool_drain_seconds",
    ("role",),
    bounds.START_S,
    "From there to their end, or their sleep",
    "near `drain_timeout_s`: answers are long, and are moved",
)
RELABELS = counter(
    "baton_pool_relabels_total",
    ("role",),
    "Workers that came over from the other pool, without a restart. `role`: the one they have since",
    "back and forth: demand swings faster than the autoscaler's patience; see docs/relabelling.md",
)
SLEEPS = counter("baton_pool_sleeps_total", ("role",), "Workers that drained and went to sleep", "see docs/relabelling.md")
WAKE = histogram(
    "baton_pool_wake_seconds",
    ("role",),
    bounds.START_S,
    "From being asked to wake to being ready",
    "near `baton_pool_start_seconds`: sleeping saves nothing",
)
START = histogram(
    "baton_pool_start_seconds",
    ("role",),
    bounds.START_S,
    "From the asking for a worker to its being ready",
    "longer than it was: a slow disk or hub, or no room in the cluster for a while",
)
STEP = histogram(
    "baton_controller_step_seconds",
    (),
    bounds.LOOP_S,
    "The controller's loop: hearing every worker, deciding, telling the routers",
    "above 1 s: a worker answers late, or Ray does",
)
FAILED_STEPS = counter("baton_controller_failed_steps_total", (), "Rounds of that loop that raised", "any: the controller's log; report it")
ROUTERS = gauge("baton_controller_routers", (), "Routers heard from lately", "fewer than `router.replicas`: `serve status`")

OF_POOLS = (WORKERS, WANTED, STATE, STARTS, RESTARTS, ENDS, DRAINS, DRAIN, RELABELS, SLEEPS, WAKE, START, STEP, FAILED_STEPS, ROUTERS)
