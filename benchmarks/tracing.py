"""What tracing costs a router per request and per token, off and on, and its sending thread per span: ``python -m benchmarks.tracing``.

Each figure is the best mean of five runs, so that what else the machine does counts little.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

from starlette.types import Message, Receive, Scope, Send

from benchmarks.metrics import DECODE, PREFILL, SERVICE, ended, mean_us
from cluster.messages import AddLeg, LegKind, LegTrace, encode
from cluster.otlp import otlp_export
from core.ids import Epoch, LegId
from core.trace import Anchor, Span, TraceContext
from core.tracing_config import TracingConfig
from router.http_trace import HttpTrace, Traced, current_trace
from router.request_spans import request_spans
from router.track import Track
from tests.support.otlp_receiver import over_grpc, over_http

CONTEXT = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", True, "vendor=1")
LEGS = [LegId("chatcmpl-1:0"), LegId("chatcmpl-1:1")]
SPANS = 20_000


def a_request() -> list[Span]:
    """All that a router does for one that is split over two workers, but for sending."""
    track = Track.of(HttpTrace(CONTEXT, "", Anchor(10**18, 50.0), random.getrandbits, lambda spans: None), 50.0)
    track.asks(50.001, False)
    track.sent(LEGS[0], LegKind.PREFILL, PREFILL[0], 1, 0, 50.002)
    track.begun(LEGS[0], 0.01, 50.2)
    track.sent(LEGS[1], LegKind.DECODE, DECODE[0], 1, 1, 50.2)
    track.begun(LEGS[1], 0.0, 50.3)
    return request_spans(track, TIMELINE, SERVICE, None)


TIMELINE = ended(PREFILL[0], DECODE[0])


async def _app(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


def through(sample: float) -> float:
    """Microseconds of the middleware for one HTTP request without a caller's trace."""
    traced = Traced(_app, lambda spans: None, sample)
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": [(b"host", b"a"), (b"content-type", b"b")]}

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        pass

    async def many(app: Traced | object) -> float:
        began_s = time.perf_counter()
        for _ in range(5000):
            await app(scope, receive, send)  # type: ignore[operator]
        return (time.perf_counter() - began_s) / 5000 * 1e6

    return min(asyncio.run(many(traced)) for _ in range(5)) - min(asyncio.run(many(_app)) for _ in range(5))


def sending_us(spans: Sequence[Span], endpoint: str, protocol: str) -> float:
    """Microseconds of CPU of this process per span, the collector's in it."""
    export = otlp_export(TracingConfig.model_validate({"otlp_endpoint": endpoint, "protocol": protocol}), "s", "i", {})
    assert export is not None
    began_s = time.process_time()
    for _ in range(SPANS // len(spans) // 400):
        export.put([*spans] * 400)
        while export._waiting:
            time.sleep(0.01)
    export.close(30.0)
    return (time.process_time() - began_s) / SPANS * 1e6


def main() -> None:
    """Prints the table."""
    add = AddLeg(LEGS[0], Epoch(1), LegKind.PREFILL, 1000)
    marked = AddLeg(LEGS[0], Epoch(1), LegKind.PREFILL, 1000, trace=LegTrace(CONTEXT, 10**18))
    spans = a_request()
    rows = {
        "off: whether there is a trace, per request": mean_us(current_trace, 100_000),
        "on, not sampled: at the door, per HTTP request": through(0.0),
        "on, sampled: at the door, per HTTP request": through(1.0),
        f"on, sampled: track and {len(spans)} spans, per request of two legs": mean_us(a_request, 2000),
        "on, sampled: more to encode, per leg": mean_us(lambda: encode(marked), 20_000) - mean_us(lambda: encode(add), 20_000),
    }
    for what, cost_us in rows.items():
        print(f"{what:70} {cost_us:8.2f} us")
    with over_grpc() as collector:
        print(f"{'the sending thread and a collector here, gRPC, per span':70} {sending_us(spans, collector.endpoint, 'grpc'):8.2f} us")
    with over_http() as collector:
        print(f"{'the same over HTTP':70} {sending_us(spans, collector.endpoint, 'http/protobuf'):8.2f} us")
    print(f"AddLeg: {len(encode(add))} bytes, with a trace {len(encode(marked))}")


if __name__ == "__main__":
    main()
