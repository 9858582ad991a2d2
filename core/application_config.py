"""All of ``args`` in either of its two forms: one model's keys at the top, or a list of ``models`` beside what they share."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from pydantic import Field, field_validator, model_validator

from core.arguments import ServerArgs
from core.config import BatonConfig, ModelConfig, SharedConfig
from core.errors import ConfigError
from core.section import Section
from core.worker import Role

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]")


class ListedModelConfig(ModelConfig):
    """One of several models."""

    server_args: ServerArgs = Field(default_factory=dict)
    """Arguments of vLLM's OpenAI server for this model only, e.g. its ``tool_call_parser``; they win over ``router.server_args``."""


class SharedScalingConfig(Section):
    """What the autoscalers of all models have together."""

    gpu_budget: float | None = Field(default=None, gt=0)
    """GPUs of all workers of all models, those of sleeping and leaving ones included; without GPUs, CPUs. Unset: each model has as many
    as its own limits allow."""


class ApplicationConfig(SharedConfig):
    """``args`` with several models behind one endpoint; the ``model`` of a request selects."""

    models: tuple[ListedModelConfig, ...] = Field(min_length=1)
    """What is served, each with its own workers, objectives and limits."""
    autoscaling: SharedScalingConfig = Field(default_factory=SharedScalingConfig)
    """What their autoscalers share."""

    @field_validator("models")
    @classmethod
    def _can_be_told_apart(cls, models: tuple[ListedModelConfig, ...]) -> tuple[ListedModelConfig, ...]:
        slugs = [slug(model.served_name) for model in models]
        for name, times in Counter(slugs).items():
            if times > 1:
                alike = [f"models[{place}]" for place, other in enumerate(slugs) if other == name]
                raise ValueError(f"{' and '.join(alike)} are both served as `{name}`; give each its own `served_model_name`")
        return models

    @model_validator(mode="after")
    def _can_be_shared(self) -> ApplicationConfig:
        if self.autoscaling.gpu_budget is None:
            return self
        for place, scaling in enumerate(model.autoscaling for model in self.models):
            where = f"models[{place}].autoscaling"
            if scaling.enabled and scaling.scaler != "baton":
                raise ValueError(f"`{where}.scaler` is `{scaling.scaler}`, which does not know of a shared budget; write `scaler: baton`")
            if scaling.keep_asleep:
                raise ValueError(f"`{where}.keep_asleep` keeps GPUs that another model may need; leave it out beside a shared budget")
        return self

    @model_validator(mode="after")
    def _adapters_belong_to_one_model(self) -> ApplicationConfig:
        owner = {model.served_name: f"models[{place}]" for place, model in enumerate(self.models)}
        folders: dict[str, str] = {}
        for place, model in enumerate(self.models):
            here = f"models[{place}].lora"
            for name in model.lora.adapters:
                if (other := owner.setdefault(name, here)) != here:
                    raise ValueError(f"`{here}.adapters.{name}` is what `{other}` is called or has, too; `model` selects by that name")
            folder = model.lora.directory
            if folder is not None and (other := folders.setdefault(folder, here)) != here:
                raise ValueError(f"`{here}.directory` is that of `{other}`, too; adapters are made for one model: give each a folder")
        return self

    @model_validator(mode="after")
    def _budget_is_of_one_kind(self) -> ApplicationConfig:
        on_gpus = {model.pool(role).num_gpus > 0 for model in self.models for role in Role}
        if self.autoscaling.gpu_budget is not None and len(on_gpus) > 1:
            raise ValueError("`autoscaling.gpu_budget` cannot be shared where some models have GPUs and others CPUs; set `max` per pool")
        return self

    @model_validator(mode="after")
    def _begins_within_the_budget(self) -> ApplicationConfig:
        budget = self.autoscaling.gpu_budget
        first = {model.served_name: sum(model.pool(role).count * model.pool(role).scaled_by for role in Role) for model in self.models}
        if budget is not None and sum(first.values()) > budget:
            each = ", ".join(f"{name} {gpus:g}" for name, gpus in first.items())
            raise ValueError(
                f"`autoscaling.gpu_budget` is {budget:g}, and the models begin with {sum(first.values()):g} ({each}); "
                "raise it, or lower the `count` of a pool"
            )
        return self


@dataclass(frozen=True, slots=True)
class Application:
    """What is served, whichever way it was written."""

    source: BatonConfig | ApplicationConfig
    models: tuple[BatonConfig, ...]

    @property
    def gpu_budget(self) -> float | None:
        """What all models share, if anything. Where there is one model, its own budget is all there is."""
        return self.source.autoscaling.gpu_budget if isinstance(self.source, ApplicationConfig) else None

    def only(self, name: str | None) -> Application:
        """With one model: that of the name, or the only one there is. Raises ConfigError."""
        found = [model for model in self.models if name in (None, model.served_name)]
        if len(found) == 1:
            return Application(self.source, (found[0],))
        served = ", ".join(model.served_name for model in self.models)
        raise ConfigError(f"serves {served}; `--model` says which is meant" if name is None else f"does not serve `{name}`, but {served}")

    def name_of(self, config: BatonConfig, app: str) -> str:
        """What a model's workers, notices and metrics are filed under: in a list, each model is an application of its own but for its
        routers. Also in a list of one, so that another one beside it is no news to it."""
        return app if isinstance(self.source, BatonConfig) else model_app(app, config.served_name)


def is_several(args: Any) -> bool:
    """Whether ``args`` are of the second form."""
    return isinstance(args, dict) and "models" in args


def application_of(args: Any) -> Application:
    """Raises pydantic's ValidationError."""
    if not is_several(args):
        one = BatonConfig.model_validate(args)
        return Application(one, (one,))
    source = ApplicationConfig.model_validate(args)
    return Application(source, tuple(_alone(model, source) for model in source.models))


def _alone(model: ListedModelConfig, source: ApplicationConfig) -> BatonConfig:
    """As if there were no other."""
    shared = source.model_dump(include=set(SharedConfig.model_fields))
    shared["router"]["server_args"] |= model.server_args
    return BatonConfig.model_validate(model.model_dump(exclude={"server_args"}) | shared)


def model_app(app: str, served_name: str) -> str:
    """One of several models of ``app``. No ``/``: names of workers go on behind one."""
    return f"{app}:{slug(served_name)}"


def slug(served_name: str) -> str:
    """The name where not every character may stand."""
    return _NOT_IN_NAMES.sub("-", served_name)
