"""The section ``kv_transfer`` of the configuration."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from core.section import Section


class KVTransferConfig(Section):
    """How a computed KV cache gets from a prefill to a decode worker."""

    backend: Literal["nixl", "simulated"] = "nixl"
    """``nixl`` moves memory between vLLM engines; ``simulated`` goes with simulated engines."""
    lease_s: float = Field(default=10.0, ge=1)
    """How long a prefill worker keeps a finished prompt's blocks for a decode worker that has said nothing. Too short and a
    busy decode worker finds them gone and computes the prompt again; too long and they are missing for new prompts."""
    pull_timeout_s: float = Field(default=10.0, gt=0)
    """A pull that has neither come nor failed by then counts as failed, and decode computes the prompt itself. Longer than the
    longest context takes over the link."""
    progress_thread_rest_us: int | None = Field(default=None, ge=0)
    """Pause between two polls of NIXL's progress thread. Without one it burns a core per engine; with one a transfer starts
    that much later. Unset: 100 on the CPU, 0 on GPU nodes, which have cores to spare."""
    buffer_device: Literal["cpu", "cuda"] | None = None
    """Where transfer buffers live. Unset: where the KV cache is."""
    link_gbps: float | None = Field(default=None, gt=0)
    """Gigabits per second that one hand-off probably gets. Routers predict from it until they have seen some. Unset: a simulated
    engine's is what its options say; else 80."""
    link_latency_s: float | None = Field(default=None, ge=0)
    """What a hand-off of next to nothing probably takes. Unset: likewise; else 0.002."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The back-end's own options; for ``nixl``, vLLM's ``kv_connector_extra_config``."""

    def rest_us(self, on_cpu: bool) -> int:
        """The progress thread's pause on a worker that computes on the CPU, or does not."""
        if self.progress_thread_rest_us is not None:
            return self.progress_thread_rest_us
        return 100 if on_cpu else 0

    def device(self, on_cpu: bool) -> str:
        """The buffer device of a worker that computes on the CPU, or does not."""
        return self.buffer_device or ("cpu" if on_cpu else "cuda")
