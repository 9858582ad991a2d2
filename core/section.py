"""What every section of the configuration is."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Section(BaseModel):
    # Frozen: routers, workers and the controller hold the same object, each in its own process; a change in one would lie.
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, given: Any) -> Any:
        """A section whose every line is commented out reads as null in YAML, and means the defaults."""
        return {} if given is None else given
