"""The section ``router`` of the configuration: how many there are, what each may hold, who may ask."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from core.arguments import ServerArgs
from core.section import Section


class QueueConfig(Section):
    """The queue of a router replica: requests no worker has room for. Beyond any of its bounds, clients get 429."""

    max_requests: int = Field(default=512, ge=0)
    """Requests that wait at once."""
    max_tokens: int = Field(default=2_000_000, ge=0)
    """Prompt tokens that wait at once."""
    max_wait_s: float = Field(default=30.0, gt=0)
    """How long one may wait. One that would have to wait for half of it, as far as can be told, is refused on arrival. With
    ``objectives.ttft_s``, that is the bound where it is the smaller one."""
    max_start_wait_s: float = Field(default=120.0, ge=0)
    """How long one may wait while nobody serves and workers are coming: they start, or autoscaling will start some. Promises count from
    when the first is there. 0: it gets 503 at once. So it does where nobody is coming, or not in time."""


class RetryConfig(Section):
    """How a request is carried on after a worker that had it was lost."""

    max_losses: int = Field(default=3, ge=1)
    """A request is given up when so many engines have ended under it: it may be what ends them."""
    backoff_s: float = Field(default=0.05, ge=0)
    """Pause before the second new try, doubled for each further one, with jitter. The first is made at once."""
    give_up_after_s: float = Field(default=600.0, gt=0)
    """How long a request that lost its worker waits for another one: as long as a worker may take to load."""


class ApiKeysConfig(Section):
    """Where the clients' keys are: in an environment variable of the routers, or a file on their nodes. Neither: nobody needs one.

    Both hold lines or comma-separated entries ``name=key``, or just ``key``.
    """

    env: str | None = Field(default=None, min_length=1)
    """The name of the environment variable."""
    file: str | None = Field(default=None, min_length=1)
    """The path of the file; readable by the routers only."""

    @model_validator(mode="after")
    def _one_place(self) -> ApiKeysConfig:
        if self.env and self.file:
            raise ValueError("give `env` or `file`, not both")
        return self

    @property
    def wanted(self) -> bool:
        """Whether clients need a key."""
        return bool(self.env or self.file)


class RouterConfig(Section):
    """The routers: vLLM's OpenAI server, and the choice of workers behind it."""

    replicas: int = Field(default=1, ge=1)
    """Router replicas. One serves hundreds of streams; a second one is for when a node dies."""
    num_cpus: float = Field(default=1.0, ge=0)
    """CPUs that Ray sets aside for a replica."""
    policy: Literal[
        "baton",
        "dynamo_kv",
        "dynamo_kv_conditional",
        "least_outstanding_tokens",
        "llmd_decode_first",
        "mooncake_ttft",
        "power_of_two",
        "random",
        "round_robin",
        "sglang_cache_aware",
    ] = "baton"
    """How workers are chosen among those that are ready; see docs/policies.md."""
    prefix_index_blocks: int = Field(default=2_000_000, ge=1)
    """KV blocks that a replica remembers where they are cached, about 150 bytes each; one that three workers have counts three times.
    Less than all workers' caches together, and it takes some prompts for uncached that are not."""
    max_ongoing_requests: int = Field(default=10_000, ge=1)
    """Requests a replica holds at once; those beyond wait in Ray Serve, unseen by the balancer."""
    server_args: ServerArgs = Field(default_factory=dict)
    """Arguments of vLLM's OpenAI server by the names of its flags, e.g. ``enable_auto_tool_choice: true``."""
    heartbeat_s: float = Field(default=0.3, gt=0)
    """A worker with nothing to say says that at least this often."""
    worker_timeout_s: float = Field(default=1.0, gt=0)
    """A connection silent for so long is cut, and other workers continue its requests. Kept alive by threads that neither a busy
    router nor a loading engine holds up, so it may be short; being wrong costs a pause."""
    retry_after_s: float = Field(default=5.0, gt=0)
    """What a client is told to wait when no worker is ready, or when there is nothing to predict from."""
    request_timeout_s: float | None = Field(default=None, gt=0)
    """A request not done by then is ended with an error. Unset: it may take as long as it takes."""
    drain_timeout_s: float = Field(default=600.0, gt=0)
    """How long a replica that is to go may finish its streams; what is left then is cut."""
    max_body_bytes: int = Field(default=32 * 1024 * 1024, ge=1024)
    """A request body beyond this is refused with 413 before it is read."""
    tenant_header: str | None = Field(default="x-baton-tenant", pattern=r"^[a-z0-9-]{1,64}$")
    """The header with the name of the tenant a request is counted for. Read while nobody needs an API key; with keys, the key's
    name is the tenant, unless ``trust_tenant_header``."""
    trust_tenant_header: bool = False
    """Reads the header beside API keys, too: for a gateway that has one key and many customers."""
    queue: QueueConfig = Field(default_factory=QueueConfig)
    """What waits for a worker, and how much of it may."""
    retry: RetryConfig = Field(default_factory=RetryConfig)
    """What happens after a worker was lost."""
    api_keys: ApiKeysConfig = Field(default_factory=ApiKeysConfig)
    """Who may ask."""

    @field_validator("worker_timeout_s")
    @classmethod
    def _outlives_lost_heartbeats(cls, timeout_s: float, info: ValidationInfo) -> float:
        heartbeat_s = info.data.get("heartbeat_s")
        if heartbeat_s is not None and timeout_s < 3 * heartbeat_s:
            raise ValueError(f"has to be at least three heartbeats, {3 * heartbeat_s:g} s, or one late heartbeat loses a worker")
        return timeout_s
