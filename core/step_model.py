"""How long an engine step takes, as a polynomial of what it computes: one model for prediction, simulation and fitting.

The form is the field's usual one: ``a + b*tokens + c*tokens^2`` for prefill, ``a + b*batch + c*context`` for decode (DistServe,
OSDI'24, appendix A; Vidur, MLSys'24). A step that does both pays the larger ``a`` once.
"""

from __future__ import annotations

import msgspec


class StepWork(msgspec.Struct, frozen=True):
    """What one step computes."""

    prefill_tokens: int = 0
    prefill_squares: int = 0
    """Sum over prefill chunks of end^2 - start^2, in tokens: tokens^2 for a whole prompt, however it is cut into chunks."""
    batch: int = 0
    """Requests that compute one token after an existing context."""
    context_tokens: int = 0
    """Tokens those requests attend to, all together."""


class StepModel(msgspec.Struct, frozen=True):
    """Six coefficients, none negative, in seconds (per step, token, token squared, step, request, token)."""

    prefill_base_s: float = 0.0
    prefill_token_s: float = 0.0
    prefill_square_s: float = 0.0
    decode_base_s: float = 0.0
    decode_request_s: float = 0.0
    decode_context_s: float = 0.0

    def step_s(self, work: StepWork) -> float:
        """Seconds of one step."""
        base = max(self.prefill_base_s if work.prefill_tokens else 0.0, self.decode_base_s if work.batch else 0.0)
        prefill = self.prefill_token_s * work.prefill_tokens + self.prefill_square_s * work.prefill_squares
        return base + prefill + self.decode_request_s * work.batch + self.decode_context_s * work.context_tokens

    def prefill_s(self, new_tokens: int, cached_tokens: int, tokens_per_step: int) -> float:
        """Seconds to compute ``new_tokens`` of a prompt behind ``cached_tokens``, alone, in chunks of ``tokens_per_step``."""
        if new_tokens <= 0:
            return 0.0
        steps = -(-new_tokens // tokens_per_step)
        end = cached_tokens + new_tokens
        return steps * self.prefill_base_s + self.prefill_token_s * new_tokens + self.prefill_square_s * (end**2 - cached_tokens**2)

    def decode_s(self, batch: int, context_tokens: int) -> float:
        """Seconds of a step in which ``batch`` requests make one token each behind ``context_tokens`` in all."""
        return self.decode_base_s + self.decode_request_s * batch + self.decode_context_s * context_tokens if batch else 0.0
