"""What is told of a request that has ended, as spans. Pure.

    POST /v1/...                     router/http_trace.py
      request                        one for each prompt and each of its ``n``
        route, queue, handoff_wait   between legs
        leg prefill | decode | whole what the worker tells is below it: cluster/leg_spans.py
          engine_queue, prefill, transfer, decode_wait, decode

The children of ``request`` follow each other without a gap, and so do those of every leg: added up they are the request.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, pairwise

from cluster.messages import LegKind
from core.metrics.words import Outcome, Part
from core.trace import Span, SpanKind, TraceContext, Value
from router.instructions import Fail
from router.outcome import outcome_of, plan_of, refusal_of
from router.service import WantedService
from router.timeline import Timeline
from router.track import LegTrack, Stretch, Track

_LAST = {Outcome.FINISHED: "finished", Outcome.STOPPED: "finished", Outcome.ENGINE: "failed"}
"""How the last leg ended, by how its request did."""


def request_spans(track: Track, timeline: Timeline, service: WantedService, fail: Fail | None) -> list[Span]:
    """All of one request but its HTTP request's. ``timeline.finished_s`` has to be known."""
    assert timeline.finished_s is not None
    end_s = track.began_s + timeline.finished_s
    own = Span(
        name="request",
        context=track.context,
        parent_id=track.http.context.span_id,
        begin_ns=track.http.anchor.at_ns(track.began_s),
        end_ns=track.http.anchor.at_ns(end_s),
        attributes=_attributes(timeline, service, fail),
        error=fail.reason if fail is not None else None,
    )
    return [own, *_below(track, timeline, fail, end_s)]


def _below(track: Track, timeline: Timeline, fail: Fail | None, end_s: float) -> Iterator[Span]:
    last = next(reversed(track.legs.values()), None)
    last_ended = _LAST.get(outcome_of(timeline, fail), "aborted")
    timed = [(now, after.begin_s) for now, after in pairwise([*track.stretches, Stretch(end_s, Part.ROUTE)])]
    for leg, stretches in groupby(timed, key=lambda each: each[0].leg):
        theirs = list(stretches)
        if leg is None:
            for stretch, until_s in theirs:
                yield from _phase(track, track.context, stretch.part, stretch.begin_s, until_s)
            continue
        begin_s, until_s = theirs[0][0].begin_s, theirs[-1][1]
        ended = leg.trouble or (last_ended if leg is last else "finished")
        yield _span(track, f"leg {leg.kind}", leg.context, track.context, begin_s, until_s, _of_leg(leg, ended), leg.why or None)
        for stretch, stretch_until_s in theirs:
            for part, part_begin_s, part_until_s in _split(leg, stretch.part, stretch.begin_s, stretch_until_s):
                yield from _phase(track, leg.context, part, part_begin_s, part_until_s)


def _split(leg: LegTrack, part: Part, begin_s: float, until_s: float) -> list[tuple[Part, float, float]]:
    """A stretch in its parts: of some only their length is known here, and that they come first."""
    if part is Part.PREFILL:
        first, first_s = Part.ENGINE_QUEUE, leg.queue_s
    elif part is Part.DECODE_WAIT:
        first, first_s = Part.TRANSFER, leg.transfer_s
    else:
        first, first_s = part, 0.0
    middle_s = min(begin_s + first_s, until_s)
    return [(first, begin_s, middle_s), (part, middle_s, until_s)]


def _phase(track: Track, parent: TraceContext, part: Part, begin_s: float, until_s: float) -> Iterator[Span]:
    """None where it took no time at all."""
    if until_s > begin_s:
        yield _span(track, part, parent.child(track.http.bits), parent, begin_s, until_s, {"baton.phase": part})


def _span(
    track: Track,
    name: str,
    context: TraceContext,
    parent: TraceContext,
    begin_s: float,
    until_s: float,
    attributes: dict[str, Value],
    error: str | None = None,
) -> Span:
    anchor = track.http.anchor
    kind = SpanKind.CLIENT if name.startswith("leg ") else SpanKind.INTERNAL
    return Span(name, context, parent.span_id, anchor.at_ns(begin_s), anchor.at_ns(until_s), attributes, kind, error)


def _of_leg(leg: LegTrack, ended: str) -> dict[str, Value]:
    of_transfer: dict[str, Value] = {"baton.transfer_bytes": leg.transfer_bytes} if leg.kind is LegKind.DECODE else {}
    return {
        "baton.leg.kind": leg.kind,
        "baton.leg.ended": ended,
        "baton.worker": leg.worker,
        "baton.attempt": leg.attempt,
        "baton.emitted_tokens": leg.emitted_tokens,
        **of_transfer,
    }


def _attributes(timeline: Timeline, service: WantedService, fail: Fail | None) -> dict[str, Value]:
    outcome = outcome_of(timeline, fail)
    told: dict[str, Value | None] = {
        "baton.request.id": timeline.request,
        "baton.client_request.id": timeline.client_request,
        "baton.class": service.class_name,
        "baton.tenant": service.tenant,
        "baton.priority": service.priority,
        "baton.plan": plan_of(timeline),
        "baton.plan.reason": timeline.policy_reason or None,
        "baton.prefill.worker": timeline.prefill_worker,
        "baton.decode.worker": timeline.decode_worker,
        "baton.attempts": timeline.attempts,
        "baton.leg_refusals": timeline.refusals,
        "baton.losses": timeline.losses,
        "baton.resumes": timeline.resumes,
        "baton.ttft_s": timeline.first_token_s,
        "baton.outcome": outcome,
        "baton.refusal.reason": refusal_of(fail) if fail is not None and outcome is Outcome.REFUSED else None,
        "baton.transfer_bytes": timeline.transfer_bytes,
        "gen_ai.usage.input_tokens": timeline.prompt_tokens,
        "gen_ai.usage.output_tokens": timeline.output_tokens,
        "baton.cached_tokens": timeline.cached_tokens,
        "baton.transferred_tokens": timeline.transferred_tokens,
        "baton.recomputed_tokens": timeline.recomputed_tokens,
    }
    return {name: value for name, value in told.items() if value is not None}
