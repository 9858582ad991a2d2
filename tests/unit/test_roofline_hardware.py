"""Hardware: what comes with Baton, and files of users."""

import pytest
import yaml

from core.errors import ConfigError
from engine.performance.roofline.hardware import find_hardware, hardware_name, read_hardware, shipped_hardware

MINE = """
mine:
  what: a GPU of mine
  memory_bytes: {value: 24e9, source: measured}
  memory_bytes_per_s: {value: 1e12, source: measured}
  flops_16: {value: 100e12, source: measured}
  flops_8: {value: 200e12, source: measured}
  link_bytes_per_s: {value: 32e9, source: measured}
  node_gpus: {value: 2, source: measured}
  network_bytes_per_s: {value: 3e9, source: measured}
"""


def changed(tmp_path, key, value):
    entry = yaml.safe_load(MINE)
    if value is None:
        del entry["mine"][key]
    else:
        entry["mine"][key] = value
    path = tmp_path / "hardware.yaml"
    path.write_text(yaml.safe_dump(entry))
    return path


def test_what_comes_with_baton():
    """All that the documentation names, each with figures that are possible together."""
    assert {"h100", "h200", "a100", "a100-40gb", "l40s", "l4", "b200", "mi300x", "a6000", "xeon-8480"} <= set(shipped_hardware())
    for name in shipped_hardware():
        hardware = find_hardware(name)
        assert 100 < hardware.flops(16) / hardware.memory_bytes_per_s < 1000, name
        assert hardware.flops(16) <= hardware.flops(8) <= hardware.flops(4), name


def test_in_any_letters():
    """As vendors write them, too."""
    assert find_hardware("H100") == find_hardware("h100")
    assert [hardware_name(name) for name in ("MI300X", "my.yaml#H100", "H1000")] == ["mi300x", "my.yaml#H100", "H1000"]


def test_own_file(tmp_path):
    """FILE#NAME; numbers as people write them."""
    path = tmp_path / "mine.yaml"
    path.write_text(MINE)
    hardware = find_hardware(f"{path}#mine")
    assert (hardware.flops(16), hardware.node_gpus) == (100e12, 2)


def test_narrower_than_it_can():
    """Four-bit operands are multiplied as eight-bit ones where there is nothing narrower."""
    assert find_hardware("h100").flops(4) == find_hardware("h100").flops(8)
    assert find_hardware("b200").flops(4) > find_hardware("b200").flops(8)


def test_exchange_beyond_the_node(tmp_path):
    """More GPUs than a node has are as slow as the network between nodes."""
    path = tmp_path / "mine.yaml"
    path.write_text(MINE)
    hardware = find_hardware(f"{path}#mine")
    assert [hardware.exchange_bytes_per_s(gpus) for gpus in (2, 3)] == [32e9, 3e9]


WRONG = [
    ("flops_16", None, "mine: Object missing required field `flops_16`"),
    ("flops_16", {"value": 1e12}, "mine: Object missing required field `source`"),
    ("flops_16", {"value": 0, "source": "x"}, "mine.flops_16: must be above 0"),
    ("flops_16", {"value": float("nan"), "source": "x"}, "mine.flops_16: must be above 0"),
    ("flops_16", {"value": 1e12, "source": " "}, "mine.flops_16: needs a source"),
    ("flops_16", {"value": "fast", "source": "x"}, "mine: Expected `float`"),
    ("colour", {"value": 1, "source": "x"}, "mine: Object contains unknown field `colour`"),
]


@pytest.mark.parametrize(("key", "value", "message"), WRONG)
def test_mistakes_are_named(tmp_path, key, value, message):
    """The file, the entry and the key."""
    with pytest.raises(ConfigError, match=f"hardware.yaml: {message}"):
        read_hardware(changed(tmp_path, key, value))


@pytest.mark.parametrize("text", ["", "[]", "a: [", "a: 1"])
def test_not_a_file_of_hardware(tmp_path, text):
    """Whatever is in the file, the answer is an error that names it."""
    path = tmp_path / "hardware.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"hardware\.yaml"):
        read_hardware(path)


def test_unknown_name():
    """It is answered with the known ones."""
    with pytest.raises(ConfigError, match=r"no hardware is called 'h1000'; known: h100, h200.*FILE#NAME"):
        find_hardware("h1000")
