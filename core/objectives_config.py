"""The section ``objectives`` of the configuration: what clients are promised, by class and by tenant."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from core.section import Section

Priority = Annotated[int, Field(ge=-100, le=100)]
"""Who goes first: the smaller number, as vLLM has it. 0 is everybody's."""
ServiceName = Annotated[str, Field(pattern=r"^[\w.@-]{1,64}$")]
"""Of a class or a tenant."""
Wish = Literal["class", "ttft", "tpot", "deadline", "priority"]
"""What a client may ask for itself."""


class Promise(Section):
    """What requests of one class are promised, and how soon they are served. Unset: as fast as it goes."""

    ttft_s: float | None = Field(default=None, gt=0)
    """Time to the first token."""
    tpot_s: float | None = Field(default=None, gt=0)
    """Time per output token after the first, the mean of one answer."""
    deadline_s: float | None = Field(default=None, gt=0)
    """Time to the last token."""
    priority: Priority = 0
    """Smaller goes first."""


class TenantConfig(Section):
    """What one tenant may: the clients with one API key, or with one name in ``router.tenant_header``."""

    weight: float = Field(default=1.0, ge=0.01, le=100)
    """Its share of the workers while others wait too, beside the others' weights."""
    best_priority: Priority | None = None
    """The smallest priority that its requests have, whatever they ask for. Unset: ``objectives.best_priority``."""
    default_class: ServiceName | None = None
    """The class of requests that name none. Unset: ``objectives.default_class``."""


class Objectives(Promise):
    """What clients are promised. What is set here itself is the class ``default``."""

    classes: dict[ServiceName, Promise] = Field(default_factory=dict)
    """Further classes by name; what one does not set, it does not promise. ``flex``, ``priority`` and ``scale`` are also what
    OpenAI's ``service_tier`` chooses."""
    default_class: ServiceName = "default"
    """The class of requests that name none."""
    client_may: tuple[Wish, ...] = ("class", "ttft", "tpot", "deadline", "priority")
    """What a request may ask for, by its headers or fields. Anything else in this list's place is refused with 400."""
    best_priority: Priority | None = None
    """The smallest priority that a request has, whatever it asks for. Unset: that of the tenant's default class, so nobody gets
    before others by asking."""
    horizon_s: float = Field(default=10.0, gt=0)
    """A request that is promised no time to its first token takes its place in the queue as if it were promised this."""
    refuse: Literal["never", "hopeless"] = "hopeless"
    """``hopeless``: a request whose objective cannot be met, as far as can be told, gets 429. ``never``: it is served behind those
    whose objectives can. Requests without objectives wait in either case."""
    makes_way: Literal["longest", "newest"] = "longest"
    """Who is refused where not all of those that wait can be in time. ``longest``: the one with the longest prompt, of a tenant's with
    the same priority, so that most promises are kept. ``newest``: whoever came last."""
    tenants: dict[ServiceName, TenantConfig] = Field(default_factory=dict)
    """Tenants that are not like the rest."""

    @field_validator("classes")
    @classmethod
    def _default_is_above(cls, classes: dict[str, Promise]) -> dict[str, Promise]:
        if "default" in classes:
            raise ValueError("the class `default` is what stands under `objectives` itself; write its keys there")
        return classes

    @model_validator(mode="after")
    def _classes_exist(self) -> Objectives:
        named = {"default_class": self.default_class}
        named |= {f"tenants.{name}.default_class": tenant.default_class for name, tenant in self.tenants.items() if tenant.default_class}
        known = ["default", *self.classes]
        for key, name in named.items():
            if name not in known:
                raise ValueError(f"`{key}` is `{name}`, and the classes are {', '.join(known)}")
        return self

    def promise(self, name: str) -> Promise | None:
        """The class of that name, None when there is none."""
        return self if name == "default" else self.classes.get(name)
