"""The section ``engine`` of the configuration."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from core.arguments import EngineArgs, Environment
from core.section import Section


class EngineConfig(Section):
    """What every engine of both pools shares."""

    kind: Literal["vllm", "simulated"] = "vllm"
    """``vllm`` computes. ``simulated`` only keeps time: for tests, and for planning without hardware."""
    args: EngineArgs = Field(default_factory=dict)
    """vLLM engine arguments by the names of its command-line flags, for both pools. A pool's ``engine_args`` override them."""
    env: Environment = Field(default_factory=dict)
    """Environment variables of every worker process, set before vLLM is imported."""
    simulated: dict[str, Any] = Field(default_factory=dict)
    """Options of the simulated engine; see ``engine/sim_config.py``. Only with ``kind: simulated``."""
    step_times: str | None = Field(default=None, min_length=1)
    """How long steps probably take, as one of the names in docs/simulator.md, e.g. ``h100-llama-3.1-8b-tp1``. It is predicted from
    until workers have measured their own. Unset: a simulated engine's are its ``timing``'s, where that says; else nothing is known."""

    @field_validator("simulated")
    @classmethod
    def _has_a_simulated_engine(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if options and info.data.get("kind", "simulated") != "simulated":
            raise ValueError("these options are for the simulated engine only; remove them, or set `kind: simulated`")
        return options

    @property
    def slowdown(self) -> float:
        """Wall seconds in a second of the engines; see ``engine/sim_config.py``."""
        return float(self.simulated.get("slowdown", 1.0))
