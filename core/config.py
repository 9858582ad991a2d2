"""The schema of ``args`` in a Baton application's YAML: what every key means, and the rules that hold between keys.

Nothing here reads a file or imports an engine; ``deploy.check_config`` adds the line numbers. Wrong values are refused when
the object is made, with a message that says the rule and what to write instead.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from core.arguments import EngineArgs, Environment, PoolEngineArgs, ServerArgs
from core.autoscaling_config import AutoscalingConfig
from core.lora_config import LoraConfig
from core.section import Section
from core.tracing_config import TracingConfig
from core.worker import Role

DEMO_MODEL = "demo"
"""The model name that stands for the small one Baton builds itself, without any download."""


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


class PoolConfig(Section):
    """One pool of equal workers. Numbers of resources are per worker."""

    count: int = Field(default=1, ge=1)
    """Workers in the pool."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """GPUs that one engine's weights are split over."""
    num_cpus: float = Field(default=1.0, ge=0)
    """CPUs that Ray sets aside for a worker. It does not limit what the worker uses."""
    num_gpus: float = Field(default=0.0, ge=0)
    """GPUs of a worker: 0 for the CPU, else as many as ``tensor_parallel_size``, or a fraction for workers that share one."""
    resources: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Custom Ray resources of a worker, e.g. ``{"accelerator_type:H100": 0.01}``: how a pool is tied to a kind of node."""
    engine_args: PoolEngineArgs = Field(default_factory=dict)
    """vLLM engine arguments of this pool only; they win over ``engine.args``."""
    start_timeout_s: float = Field(default=600.0, gt=0)
    """A worker that has not loaded its model by then is given up and replaced."""
    silence_timeout_s: float = Field(default=10.0, gt=0)
    """A worker that has not answered the controller for so long is ended and replaced. Routers give its requests to others
    much sooner: ``router.worker_timeout_s``."""
    stall_timeout_s: float = Field(default=60.0, gt=0)
    """An engine that has work and ends no step for so long hangs: its worker gives it up. Longer than the longest step."""
    drain_timeout_s: float = Field(default=30.0, ge=0)
    """How long a worker that is to go may finish what it runs. What is not finished then is continued by other workers."""
    surge: int = Field(default=0, ge=0)
    """Workers started beyond ``count`` while others are replaced, where the cluster has room. With 0 a worker goes before its
    replacement comes."""
    max_prefill_tokens: int | None = Field(default=None, ge=1)
    """Prompt tokens a worker takes on before the first of them is done; it refuses the rest, and the router offers them
    elsewhere. One prompt is always taken, however long. Unset: four steps' worth, ``4 * max_num_batched_tokens``."""
    step_times: str | None = Field(default=None, min_length=1)
    """``engine.step_times`` of this pool only, e.g. where it has other GPUs or splits its weights over more of them."""
    headroom_tokens: int = Field(default=256, ge=0)
    """KV room a worker keeps for each request it decodes to grow into; a request that would eat into it is refused."""

    @property
    def on_cpu(self) -> bool:
        """Whether workers compute on the CPU, going by what they ask of Ray."""
        return self.num_gpus == 0

    @property
    def scaled_by(self) -> float:
        """What one worker takes of ``autoscaling.gpu_budget``: its GPUs; without any, its CPUs."""
        return self.num_gpus or self.num_cpus or 1.0

    @field_validator("num_gpus")
    @classmethod
    def _one_gpu_per_rank(cls, gpus: float, info: ValidationInfo) -> float:
        ranks = info.data.get("tensor_parallel_size")
        if ranks is None or gpus == ranks or (ranks == 1 and gpus < 1):
            return gpus
        raise ValueError(
            f"`num_gpus` is per worker and has to equal `tensor_parallel_size` ({ranks}), or be 0 or a fraction beside a size of 1; "
            f"it is {gpus:g}. For more workers raise `count`"
        )


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
    """A request is given up when so many engines have ended under it: it may be what ends them. Likewise when
    so many workers have said that they cannot load its adapter."""
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


class SharedConfig(Section):
    """What all models of an application have together."""

    router: RouterConfig = Field(default_factory=RouterConfig)
    """What clients talk to."""
    tracing: TracingConfig = Field(default_factory=TracingConfig)
    """Where spans of requests go, if anywhere."""
    host: str | None = Field(default=None, min_length=1)
    """The address that workers bind and others reach them at. Unset: the address Ray knows the node by. ``127.0.0.1`` keeps
    a cluster of one machine to itself."""

    @field_validator("host")
    @classmethod
    def _can_be_reached(cls, host: str | None) -> str | None:
        if host in {"0.0.0.0", "::"}:
            raise ValueError("others are told this address, so it has to be one they can reach; leave it out to bind the node's own")
        return host


class ModelConfig(Section):
    """One model: its workers, what is promised of it, how it scales. Only ``model`` has to be there."""

    model: str = Field(min_length=1)
    """A model directory that every node sees, a hub name, or ``demo`` for the small random model Baton builds itself."""
    served_model_name: str | None = Field(default=None, min_length=1)
    """The name clients ask for. Unset: ``model`` as it is written."""
    lora: LoraConfig = Field(default_factory=LoraConfig)
    """Adapters of the model, which clients ask for by name as they ask for the model."""
    engine: EngineConfig = Field(default_factory=EngineConfig)
    """What every engine of both pools shares."""
    prefill: PoolConfig = Field(default_factory=PoolConfig)
    """The workers that compute prompts."""
    decode: PoolConfig = Field(default_factory=PoolConfig)
    """The workers that produce tokens."""
    kv_transfer: KVTransferConfig = Field(default_factory=KVTransferConfig)
    """How a KV cache gets from one to the other."""
    objectives: Objectives = Field(default_factory=Objectives)
    """What they are promised."""
    autoscaling: AutoscalingConfig = Field(default_factory=AutoscalingConfig)
    """How many workers of each pool there are, if not always the same number."""

    @property
    def served_name(self) -> str:
        """The name clients ask for."""
        return self.served_model_name or self.model

    @property
    def is_demo_model(self) -> bool:
        """Whether the model is the one Baton builds, not one on disk or a hub."""
        return self.model == DEMO_MODEL

    def pool(self, role: Role) -> PoolConfig:
        """The pool a worker with this role belongs to."""
        return self.prefill if role is Role.PREFILL else self.decode

    def engine_args(self, role: Role) -> dict[str, Any]:
        """vLLM engine arguments of a pool: the shared ones, the pool's over them, its tensor parallel size, and room for adapters."""
        pool = self.pool(role)
        return {**self.engine.args, **pool.engine_args, "tensor_parallel_size": pool.tensor_parallel_size, **self.lora.engine_args}

    @field_validator("lora")
    @classmethod
    def _adapters_are_not_the_model(cls, lora: LoraConfig, info: ValidationInfo) -> LoraConfig:
        name = info.data.get("served_model_name") or info.data.get("model")
        if name in lora.adapters:
            raise ValueError(f"`{name}` is what clients call the model itself; give the adapter, or `served_model_name`, another name")
        return lora

    @field_validator("kv_transfer")
    @classmethod
    def _backend_fits_engine(cls, transfer: KVTransferConfig, info: ValidationInfo) -> KVTransferConfig:
        engine = info.data.get("engine")
        if engine is not None and (engine.kind == "simulated") != (transfer.backend == "simulated"):
            wanted = "simulated" if engine.kind == "simulated" else "nixl"
            raise ValueError(f"`backend: {transfer.backend}` does not go with `kind: {engine.kind}` engines; set `backend: {wanted}`")
        return transfer

    @field_validator("kv_transfer")
    @classmethod
    def _buffers_are_whole(cls, transfer: KVTransferConfig, info: ValidationInfo) -> KVTransferConfig:
        pools = [pool for name in ("prefill", "decode") if (pool := info.data.get(name)) is not None]
        if transfer.buffer_device == "cpu" and any(not pool.on_cpu for pool in pools):
            # vLLM copies to such a buffer up to the end of the prompt only; a request that goes on elsewhere has more.
            raise ValueError("`buffer_device: cpu` beside GPUs would lose part of the KV of requests that are moved; leave it out")
        return transfer

    @field_validator("autoscaling")
    @classmethod
    def _can_be_scaled(cls, scaling: AutoscalingConfig, info: ValidationInfo) -> AutoscalingConfig:
        pools = {role: pool for role in Role if (pool := info.data.get(role)) is not None}
        objectives = info.data.get("objectives")
        if not scaling.enabled or len(pools) < len(Role) or objectives is None:
            return scaling
        for name in ("ttft_s", "tpot_s"):
            if getattr(scaling.objective, name) is None and getattr(objectives, name) is None:
                raise ValueError(f"what are there to be enough workers for? Set `objective.{name}` here, or `objectives.{name}`")
        for role, pool in pools.items():
            limits = scaling.range(role)
            if not limits.min <= pool.count <= limits.max:
                raise ValueError(
                    f"`{role}` begins with its `count` of {pool.count} workers, which is not within {limits.min} to {limits.max}; "
                    f"change `count`, or `{role}.min` and `{role}.max` here"
                )
        least = sum(scaling.range(role).min * pool.scaled_by for role, pool in pools.items())
        if scaling.gpu_budget is not None and least > scaling.gpu_budget:
            raise ValueError(
                f"`gpu_budget` is {scaling.gpu_budget:g}, and both pools take {least:g} at the least; raise it, or lower `min`"
            )
        return scaling

    @field_validator("decode")
    @classmethod
    def _pools_can_exchange(cls, decode: PoolConfig, info: ValidationInfo) -> PoolConfig:
        prefill, engine = info.data.get("prefill"), info.data.get("engine")
        if prefill is None or engine is None or engine.kind == "simulated":
            return decode
        if prefill.on_cpu != decode.on_cpu:
            raise ValueError(
                "a KV cache computed on the CPU cannot be used on a GPU, nor the reverse; give both pools `num_gpus`, or neither"
            )
        few, many = sorted((prefill.tensor_parallel_size, decode.tensor_parallel_size))
        if many % few:
            raise ValueError(f"one pool's `tensor_parallel_size` must be a multiple of the other's; they are {few} and {many}")
        return decode


class BatonConfig(SharedConfig, ModelConfig):
    """All of ``args`` where there is one model; of several, what one of them is served by. Only ``model`` has to be there: the rest
    then serves it on one CPU worker per pool."""
