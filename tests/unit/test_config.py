"""The configuration schema: defaults that serve, rules that say what to do."""

import pytest
from pydantic import BaseModel, ValidationError

from core.config import BatonConfig
from core.worker import Role

GPU = {"num_gpus": 1}


def wrong(**args: object) -> list[tuple[str, str]]:
    with pytest.raises(ValidationError) as caught:
        BatonConfig.model_validate({"model": "demo", **args})
    return [(".".join(str(step) for step in error["loc"] if step != "[key]"), error["msg"]) for error in caught.value.errors()]


def test_a_model_is_enough():
    """Only `model` has to be given; the rest serves it with one CPU worker per pool over NIXL."""
    config = BatonConfig(model="demo")
    assert config.is_demo_model
    assert config.served_name == "demo"
    assert (config.prefill.count, config.decode.count, config.prefill.on_cpu) == (1, 1, True)
    assert config.kv_transfer.backend == "nixl"


def test_pool_arguments_win_over_shared_ones():
    """An engine gets the shared arguments, its pool's over them, and its pool's tensor parallel size."""
    config = BatonConfig.model_validate(
        {
            "model": "m",
            "engine": {"args": {"max-model-len": 4096, "max_num_seqs": 8}},
            "prefill": GPU,
            "decode": {"num_gpus": 2, "tensor_parallel_size": 2, "engine_args": {"--max-num-seqs": 64}},
        }
    )
    assert config.engine_args(Role.PREFILL) == {"max_model_len": 4096, "max_num_seqs": 8, "tensor_parallel_size": 1}
    assert config.engine_args(Role.DECODE) == {"max_model_len": 4096, "max_num_seqs": 64, "tensor_parallel_size": 2}


def test_transfer_follows_the_device():
    """On the CPU NIXL's progress thread rests and buffers are in main memory; on a GPU neither; a given value always wins."""
    unset = BatonConfig(model="m").kv_transfer
    assert (unset.rest_us(on_cpu=True), unset.device(on_cpu=True)) == (100, "cpu")
    assert (unset.rest_us(on_cpu=False), unset.device(on_cpu=False)) == (0, "cuda")
    given = BatonConfig.model_validate({"model": "m", "kv_transfer": {"progress_thread_rest_us": 0, "buffer_device": "cpu"}}).kv_transfer
    assert (given.rest_us(on_cpu=True), given.device(on_cpu=False)) == (0, "cpu")


def test_environment_numbers_become_text():
    """`OMP_NUM_THREADS: 1` is accepted; processes get text."""
    assert BatonConfig.model_validate({"model": "m", "engine": {"env": {"A": 1, "B": 0.5, "C": "c"}}}).engine.env == {
        "A": "1",
        "B": "0.5",
        "C": "c",
    }


def test_an_empty_section_is_its_defaults():
    """A section with all its lines commented out is null in YAML and means the defaults."""
    assert BatonConfig.model_validate({"model": "m", "router": None}) == BatonConfig(model="m")


@pytest.mark.parametrize(
    ("args", "where", "rule"),
    [
        ({"modle": "x"}, "modle", "Extra inputs"),
        ({"model": ""}, "model", "at least 1 character"),
        ({"engine": {"kind": "vlm"}}, "engine.kind", "'vllm' or 'simulated'"),
        ({"engine": {"args": {"model": "x"}}}, "engine.args.model", "at the top of args"),
        ({"engine": {"args": {"kv-transfer-config": {}}}}, "engine.args.kv_transfer_config", "made from `kv_transfer`"),
        ({"engine": {"args": {"tensor_parallel_size": 2}}}, "engine.args.tensor_parallel_size", "belongs to the pool"),
        ({"engine": {"args": {"a-b": 1, "a_b": 2}}}, "engine.args", "given twice"),
        ({"engine": {"env": {"VLLM_NIXL_SIDE_CHANNEL_PORT": 1}}}, "engine.env.VLLM_NIXL_SIDE_CHANNEL_PORT", "free port of its own"),
        ({"engine": {"env": {"A": True}}}, "engine.env.A", "in quotes"),
        ({"engine": {"simulated": {"num_blocks": 9}}}, "engine.simulated", "set `kind: simulated`"),
        ({"prefill": {"count": -1}}, "prefill.count", "greater than or equal to 0"),
        ({"decode": {"count": 0}}, "decode.count", "greater than or equal to 1"),
        ({"prefill": {"num_gpus": 2}}, "prefill.num_gpus", "equal `tensor_parallel_size`"),
        ({"prefill": {"tensor_parallel_size": 2}}, "prefill.num_gpus", "equal `tensor_parallel_size`"),
        ({"prefill": {"num_gpus": 1.5}}, "prefill.num_gpus", "raise `count`"),
        ({"prefill": {"engine_args": {"dtype": "half"}}}, "prefill.engine_args.dtype", "move it to `args` of `engine`"),
        ({"prefill": {"resources": {"x": 0}}}, "prefill.resources.x", "greater than 0"),
        ({"prefill": GPU}, "decode", "both pools `num_gpus`"),
        (
            {"prefill": {"num_gpus": 2, "tensor_parallel_size": 2}, "decode": {"num_gpus": 3, "tensor_parallel_size": 3}},
            "decode",
            "a multiple of the other's",
        ),
        ({"kv_transfer": {"backend": "simulated"}}, "kv_transfer", "set `backend: nixl`"),
        (
            {"prefill": {"num_gpus": 1}, "decode": {"num_gpus": 1}, "kv_transfer": {"buffer_device": "cpu"}},
            "kv_transfer",
            "would lose part of the KV of requests that are moved",
        ),
        ({"router": {"api_keys": {"env": "A", "file": "b"}}}, "router.api_keys", "give `env` or `file`, not both"),
        ({"engine": {"kind": "simulated"}}, "kv_transfer", "set `backend: simulated`"),
        ({"kv_transfer": {"lease_s": 0}}, "kv_transfer.lease_s", "greater than or equal to 1"),
        ({"router": {"heartbeat_s": 5}}, "router.worker_timeout_s", "15 s"),
        ({"router": {"server_args": {"port": 1}}}, "router.server_args.port", "http_options"),
        ({"objectives": {"ttft_s": float("inf")}}, "objectives.ttft_s", "finite"),
        ({"host": "0.0.0.0"}, "host", "one they can reach"),
    ],
)
def test_rules(args, where, rule):
    """Each broken rule is found at its key, and the message says what to write instead."""
    found = wrong(**args)
    assert [place for place, _ in found] == [where]
    assert rule in found[0][1]


@pytest.mark.parametrize("pool", [{"num_gpus": 0.5}, {"num_gpus": 4, "tensor_parallel_size": 4}, {"resources": {"rack-7": 1}}])
def test_pools_that_work(pool):
    """A GPU may be shared; a worker may take several for one engine; a CPU pool may be tied to nodes by a custom resource."""
    BatonConfig.model_validate({"model": "m", "prefill": pool, "decode": pool})


def test_every_field_is_documented():
    """The schema explains itself: every key of every section has a description."""

    def undocumented(section: type[BaseModel]) -> list[str]:
        names = [f"{section.__name__}.{name}" for name, field in section.model_fields.items() if not field.description]
        inner = (field.annotation for field in section.model_fields.values())
        return names + [name for t in inner if isinstance(t, type) and issubclass(t, BaseModel) for name in undocumented(t)]

    assert undocumented(BatonConfig) == []


def test_it_is_a_value():
    """A configuration survives the way through JSON (Serve's `args`) and cannot be changed."""
    config = BatonConfig(model="m")
    assert BatonConfig.model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ValidationError):
        config.model = "other"  # type: ignore[misc]
