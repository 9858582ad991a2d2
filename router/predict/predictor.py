"""What a router expects of workers, links and requests, in one place: the balancer asks, the dispatcher tells what happened."""

from __future__ import annotations

import math
from collections.abc import Mapping

from core.ids import WorkerId
from core.metrics.predictions import PredictionNumbers
from core.step_model import StepModel
from core.worker import Role
from router.plan import WorkerView
from router.predict.errors import PredictionErrors, Quantity
from router.predict.extra import Extra
from router.predict.lengths import OutputLengths
from router.predict.links import Link, LinkModel, LinkTimes
from router.predict.odds import Odds
from router.predict.step_models import StepModels

_KV_MEMORY = 64
"""Transfers after which an old one counts for a third in ``kv_bytes_per_token``."""


class Predictor:
    """``router.balancer.base.Predictions``, learnt. One per router; no clock, no waiting; every call takes microseconds.

    In ``observe_*`` a prediction that is None was never made: then there is something to learn, and nothing to check.
    """

    def __init__(
        self,
        step_priors: Mapping[Role, StepModel] | None = None,
        link_prior: LinkModel | None = None,
        kv_bytes_per_token: float | None = None,
        lengths: OutputLengths | None = None,
    ) -> None:
        """``kv_bytes_per_token`` holds until the first transfer; None: Llama-3-8B's in 16 bits, 128 KiB."""
        self._steps = StepModels(step_priors)
        self._links = LinkTimes(link_prior)
        self._lengths = lengths or OutputLengths()
        self._extra = {role: Extra() for role in Role}
        self._odds_alone = {role: Odds() for role in Role}
        self._kv_bytes = 131_072.0 if kv_bytes_per_token is None else kv_bytes_per_token
        self._kv_tokens = 1.0
        self.errors = PredictionErrors()

    # -- asked ---------------------------------------------------------------------------------------------------------

    @property
    def kv_bytes_per_token(self) -> float:
        return self._kv_bytes / self._kv_tokens

    def step_model(self, seen: WorkerView) -> StepModel:
        """How long this worker's steps take; both sides of the model are always filled in."""
        return self._steps.of(seen.card.worker, seen.card.role, seen.load.step)

    def link(self, prefill: WorkerId, decode: WorkerId) -> Link:
        """What is known of the way from one to the other."""
        return self._links.link(prefill, decode)

    def expected_output(self, model: str, tenant: str, prompt_tokens: int, max_tokens: int, emitted: int = 0) -> float:
        """Tokens still to come, on average."""
        return self._lengths.expected(model, tenant, prompt_tokens, max_tokens, emitted)

    def output_quantile(self, part: float, model: str, tenant: str, prompt_tokens: int, max_tokens: int, emitted: int = 0) -> float:
        """So many tokens or fewer will still come in that part of such cases."""
        return self._lengths.quantile(part, model, tenant, prompt_tokens, max_tokens, emitted)

    def ttft_late_s(self, role: Role, promised_s: float) -> float:
        """By how much nine in ten first tokens of workers with this role are later than a policy's prediction, at most. Never more than a
        quarter of what is promised: after a bad minute everybody would be refused, and nothing better learnt."""
        return min(self._extra[role].late_s, promised_s / 4)

    def slower_alone(self, role: Role, ratio: float, now: float) -> tuple[int, int]:
        """How many answers, of how many lately made by one worker of this role alone, took more than ``ratio`` times the predicted
        time per token: prompts that come after a decision hold them up, and nobody knows of those when it is made."""
        return self._odds_alone[role].beyond(ratio, now)

    @property
    def error_numbers(self) -> list[PredictionNumbers]:
        """For Prometheus."""
        return self.errors.numbers

    # -- told ----------------------------------------------------------------------------------------------------------

    def observe_first_token(self, role: Role, predicted_s: float | None, happened_s: float) -> None:
        """The first token came, from a worker with this role. ``predicted_s`` is the policy's own, the one it decided by."""
        if predicted_s is None or not math.isfinite(predicted_s):
            return
        self.errors.observe(Quantity.TTFT, predicted_s, happened_s, role)
        self._extra[role].observe(predicted_s, happened_s)

    def observe_queue(self, role: Role, predicted_s: float | None, happened_s: float) -> None:
        """A prompt's turn came, on a worker with this role."""
        self.errors.observe(Quantity.QUEUE, predicted_s, happened_s, role)

    def observe_transfer(
        self,
        prefill: WorkerId,
        decode: WorkerId,
        transfer_bytes: int,
        tokens: int,
        happened_s: float,
        ended_s: float,
        predicted_s: float | None = None,
    ) -> None:
        """KV of so many tokens was pulled, until ``ended_s``. ``tokens`` 0: nobody knows of how many."""
        self.errors.observe(Quantity.TRANSFER, predicted_s, happened_s)
        self._links.observe(prefill, decode, transfer_bytes, happened_s, ended_s)
        if transfer_bytes > 0 and tokens > 0:
            kept = 1.0 - 1.0 / _KV_MEMORY if self._kv_tokens > 1.0 else 0.0  # the first one replaces what was a guess
            self._kv_bytes = self._kv_bytes * kept + transfer_bytes
            self._kv_tokens = self._kv_tokens * kept + tokens

    def observe_finished(
        self,
        model: str,
        tenant: str,
        prompt_tokens: int,
        output_tokens: int,
        predicted_tokens: float | None = None,
    ) -> None:
        """An answer is complete. ``predicted_tokens`` is what was expected before its first token."""
        self.errors.observe(Quantity.OUTPUT_TOKENS, predicted_tokens, output_tokens)
        self._lengths.observe(model, tenant, prompt_tokens, output_tokens)

    def observe_tpot(self, role: Role, predicted_s: float | None, happened_s: float, was_split: bool = True, now: float = 0.0) -> None:
        """An answer is complete, and this was its mean time per token after the first, on a worker with this role."""
        self.errors.observe(Quantity.TPOT, predicted_s, happened_s, role)
        if predicted_s is not None and not was_split:
            self._odds_alone[role].observe(predicted_s, happened_s, now)

    def forget(self, worker: WorkerId) -> None:
        """The worker is no member any more."""
        self._steps.forget(worker)
        self._links.forget(worker)
