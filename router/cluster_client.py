"""The seam: a whole cluster as one of vLLM's ``EngineCoreClient``s. What ``AsyncLLM`` calls, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Iterator
from http import HTTPStatus
from types import SimpleNamespace

from vllm.exceptions import GracefulHTTPError, VLLMValidationError
from vllm.tasks import SupportedTask
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, EngineCoreRequest
from vllm.v1.engine.core_client import EngineCoreClient

from core.errors import NotReadyError
from core.ids import RequestId
from core.metrics.words import Why
from engine.vllm_outputs import merged
from router.decision_note import current_note
from router.dispatcher import Dispatcher
from router.early_refusal import refusal_text
from router.events import FailKind
from router.http_trace import current_trace
from router.members import Members
from router.service import WantedService, current_service

log = logging.getLogger(__name__)

_STATUS = {
    FailKind.OVERLOADED: HTTPStatus.TOO_MANY_REQUESTS,
    FailKind.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    FailKind.LOST: HTTPStatus.BAD_GATEWAY,
    FailKind.ENGINE: HTTPStatus.INTERNAL_SERVER_ERROR,
    FailKind.ABSENT: HTTPStatus.NOT_FOUND,
    FailKind.TIMED_OUT: HTTPStatus.GATEWAY_TIMEOUT,
    FailKind.NEVER: HTTPStatus.BAD_REQUEST,  # which no client tries again
}


class ClusterClient(EngineCoreClient):
    """Requests go to the dispatcher, outputs come from its queue. Never "dead": a cluster without workers is refused per request."""

    engine_ranks_managed = (0,)
    resources = SimpleNamespace(engine_dead=False)

    def __init__(self) -> None:
        self._outputs: asyncio.Queue[list[EngineCoreOutput]] = asyncio.Queue()
        self._dispatcher: Dispatcher | None = None
        self._members: Members | None = None
        self._abort_outcome = "stopped"

    def connect(self, dispatcher: Dispatcher, members: Members) -> None:
        """Given once, before the first request."""
        self._dispatcher, self._members = dispatcher, members

    def deliver(self, outputs: list[EngineCoreOutput]) -> None:
        """Where the dispatcher puts a step's outputs."""
        self._outputs.put_nowait(outputs)

    def check_admission(self, requests: int) -> None:
        """Raises vLLM's HTTP error 503 when there is no worker and none to wait for, 429 when too many wait already."""
        assert self._dispatcher is not None
        service = current_service()
        if (nobody := self._dispatcher.nobody(service)) is not None:
            self._refused(Why.NO_WORKER, service, requests)
            refusal = NotReadyError(nobody, math.ceil(self._dispatcher.retry_after_s()))
            if (note := current_note()) is not None:
                note.retry_after_s = refusal.retry_after_s
            raise GracefulHTTPError(str(refusal), HTTPStatus.SERVICE_UNAVAILABLE)
        if overload := self._dispatcher.overload(requests, service):
            self._refused(overload.why, service, requests)
            raise GracefulHTTPError(refusal_text(overload, self._dispatcher.retry_after_s()), HTTPStatus.TOO_MANY_REQUESTS)

    def _refused(self, why: Why, service: WantedService, requests: int) -> None:
        assert self._dispatcher is not None
        self._dispatcher.tally.refused(why, service, requests)
        if (trace := current_trace()) is not None:
            trace.refused(why)

    def failure(self, client_request: str) -> GracefulHTTPError:
        """Why a request of this client ended with an error, as the error its client is to get."""
        assert self._dispatcher is not None
        fail = self._dispatcher.take_failure(client_request)
        if fail is None:
            return GracefulHTTPError("the engine reported an error for this request", HTTPStatus.INTERNAL_SERVER_ERROR)
        if (note := current_note()) is not None:
            note.retry_after_s, note.status, note.reason = fail.retry_after_s, _STATUS[fail.kind], fail.reason
        return GracefulHTTPError(fail.reason, _STATUS[fail.kind])

    async def get_supported_tasks_async(self) -> tuple[SupportedTask, ...]:
        return ("generate",)

    async def add_request_async(self, request: EngineCoreRequest) -> None:
        assert self._dispatcher is not None
        if request.abort_immediately:
            return  # made only of ``kv_transfer_params`` that a client sent; Baton's own leases end elsewhere
        if request.resumable:
            raise VLLMValidationError("streaming input cannot be served over several workers")
        try:
            self._dispatcher.add(request)
        except Exception as error:  # in nearly all cases a value that no message can hold, in one of many fields
            unexpected = not isinstance(error, OverflowError)
            log.warning("request %s cannot be sent to a worker: %s", request.request_id, error, exc_info=unexpected)
            raise VLLMValidationError(f"the request cannot be sent to a worker: {error}") from error

    async def get_output_async(self) -> EngineCoreOutputs:
        steps = [await self._outputs.get()]
        while not self._outputs.empty():  # steps that came while the front half was busy: it takes them as one
            steps.append(self._outputs.get_nowait())
        return EngineCoreOutputs(outputs=steps[0] if len(steps) == 1 else merged(steps))

    @contextlib.contextmanager
    def client_gone(self) -> Iterator[None]:
        """Aborts within are because of a client that has left. Nothing else runs meanwhile: ``abort_requests_async`` never waits."""
        self._abort_outcome = "cancelled"
        try:
            yield
        finally:
            self._abort_outcome = "stopped"

    async def abort_requests_async(self, request_ids: list[str]) -> None:
        assert self._dispatcher is not None
        self._dispatcher.abort([RequestId(name) for name in request_ids], self._abort_outcome)

    async def reset_prefix_cache_async(self, reset_running_requests: bool = False, reset_connector: bool = False) -> bool:
        assert self._members is not None
        calls = [link.call("reset_prefix_cache", reset_running_requests, reset_connector) for link in self._members.links if link.up]
        return all(await asyncio.gather(*calls))

    async def reset_mm_cache_async(self) -> None:
        """The front half's own cache is reset by its renderer; workers are sent every item whole."""

    async def reset_encoder_cache_async(self) -> None:
        """As above."""

    async def is_sleeping_async(self) -> bool:
        return False

    def shutdown(self, timeout: float | None = None) -> None:
        """Workers belong to the controller, links to ``Members``; there is nothing here to end."""
