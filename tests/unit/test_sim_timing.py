"""Step times of the simulated engine."""

import msgspec
import pytest

from core.errors import ConfigError
from core.step_model import StepWork
from engine.performance.registry import timing_by_name
from engine.performance.table import DecodeRow, PrefillRow, TableTime
from engine.sim_config import SimulatedEngineConfig
from engine.sim_timing import ConstantTime, NamedTime, PolynomialTime

TABLE = TableTime(
    prefill=(PrefillRow(100, 0.01), PrefillRow(300, 0.05)),
    decode=(DecodeRow(1, 100, 0.002), DecodeRow(1, 300, 0.004), DecodeRow(9, 100, 0.006), DecodeRow(9, 300, 0.012)),
)


def test_constant_time_ignores_the_work() -> None:
    """Every step takes the configured seconds; 0 is allowed, below is not."""
    assert ConstantTime(0.5).step_s(StepWork(prefill_tokens=1000)) == 0.5
    assert ConstantTime(0).step_s(StepWork(batch=3)) == 0
    with pytest.raises(ConfigError, match="seconds"):
        ConstantTime(-1)


@pytest.mark.parametrize(
    ("work", "seconds"),
    [
        pytest.param(StepWork(prefill_tokens=10, prefill_squares=100), 1 + 20 + 300, id="prefill"),
        pytest.param(StepWork(batch=2, context_tokens=10), 4 + 10 + 60, id="decode"),
        pytest.param(StepWork(10, 100, 2, 10), 4 + 20 + 300 + 10 + 60, id="mixed pays one base"),
        pytest.param(StepWork(), 0, id="nothing"),
    ],
)
def test_polynomial_time(work: StepWork, seconds: float) -> None:
    """Each term counts what its name says."""
    timing = PolynomialTime(
        prefill_base_s=1, prefill_token_s=2, prefill_square_s=3, decode_base_s=4, decode_request_s=5, decode_context_s=6
    )
    assert timing.step_s(work) == seconds


@pytest.mark.parametrize(
    ("work", "seconds"),
    [
        pytest.param(StepWork(prefill_tokens=100), 0.01, id="a measured prefill"),
        pytest.param(StepWork(prefill_tokens=200), 0.03, id="between two"),
        pytest.param(StepWork(prefill_tokens=400), 0.07, id="beyond"),
        pytest.param(StepWork(batch=1, context_tokens=200), 0.003, id="between two contexts"),
        pytest.param(StepWork(batch=5, context_tokens=5 * 200), 0.006, id="between two batches and contexts"),
        pytest.param(StepWork(100, 0, 1, 100), 0.01 + 0.002 - 0.002, id="mixed pays the smaller base once"),
    ],
)
def test_table_time(work: StepWork, seconds: float) -> None:
    """Measured rows are met exactly, others are interpolated; context is per request in the table."""
    assert TABLE.step_s(work) == pytest.approx(seconds)


def test_table_time_parts_attention_from_the_rest() -> None:
    """With a time per token squared, several prompts in one step cost less than one as long, and a chunk deep in a prompt costs more."""
    table = TableTime(TABLE.prefill, TABLE.decode, prefill_square_s=1e-7)
    assert table.step_s(StepWork(300, 300**2)) == pytest.approx(0.05)
    assert table.step_s(StepWork(300, 3 * 100**2)) == pytest.approx(0.05 - 1e-7 * 60_000)
    assert table.step_s(StepWork(300, 1000**2 - 700**2)) == pytest.approx(0.05 + 1e-7 * (510_000 - 90_000))


def test_configuration_names_its_timing() -> None:
    """Which timing is meant can be written down in YAML or JSON."""
    config = msgspec.convert({"timing": {"type": "polynomial", "prefill_token_s": 1e-5}}, SimulatedEngineConfig)
    assert config.timing == PolynomialTime(prefill_token_s=1e-5)
    assert msgspec.convert(msgspec.to_builtins(SimulatedEngineConfig(timing=TABLE)), SimulatedEngineConfig).timing == TABLE


def test_configuration_can_name_a_known_timing() -> None:
    """A name stands for the step times that come with Baton, and an unknown one is refused with the configuration."""
    config = msgspec.convert({"timing": {"type": "named", "name": "h100-llama-3.1-8b-tp1"}}, SimulatedEngineConfig)
    work = StepWork(1000, 1000**2, 8, 8000)
    assert config.timing.step_s(work) == timing_by_name("h100-llama-3.1-8b-tp1").step_s(work)
    assert msgspec.convert(msgspec.to_builtins(config), SimulatedEngineConfig) == config
    with pytest.raises(ConfigError, match="known: a100"):
        NamedTime("tpu")
