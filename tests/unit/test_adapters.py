"""LoRA adapters: their names and numbers, which of them a node finds, who goes when another comes, and what is loaded when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cluster.adapter_slots import AdapterSlots, Placed
from cluster.adapters import Adapters
from core.adapter import Adapter, is_adapter_name
from core.block_keys import BlockKeys
from core.config import BatonConfig
from core.errors import AdapterError
from core.metrics.words import AdapterFate
from core.worker import Role
from engine.adapters import AdapterCatalogue
from engine.sim_config import SimulatedEngineConfig
from engine.simulated import SimulatedEngine
from engine.vllm_lora import engine_lora, lora_number, named_lora

CONFIG = "adapter_config.json"


def config(**lora: Any) -> BatonConfig:
    return BatonConfig.model_validate({"model": "demo", "lora": lora})


def wrong(args: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        BatonConfig.model_validate({"model": "demo", **args})
    return str(caught.value)


# -- names and numbers -------------------------------------------------------------------------------------------------


@given(st.lists(st.text(min_size=1)))
def test_numbers_are_what_engines_take(names: list[str]) -> None:
    """One for each name, and always the same in a process. vLLM takes none below 1, and keeps them in signed 32 bits on some GPUs."""
    numbers = {name: lora_number(name) for name in names}
    assert len(set(numbers.values())) == len(numbers)
    assert all(1 <= number < 1 << 31 for number in numbers.values())
    assert {name: lora_number(name) for name in reversed(names)} == numbers


@given(st.text())
def test_no_name_leads_out_of_its_folder(name: str) -> None:
    """Whatever a client sends: what is taken for a name is one step of a path, and not one up."""
    if is_adapter_name(name):
        assert Path("/folder", name).parent == Path("/folder")
        assert name not in {".", ".."}
        assert name.isascii()
        assert name.isprintable()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "/a", "a\n", "-a", "a b", "a" * 129, None, 7, ["a"]])
def test_what_is_no_name(name: object) -> None:
    assert not is_adapter_name(name)


def test_routers_and_engines_agree_on_all_but_the_path() -> None:
    """What crosses the wire names no path; what an engine gets has this node's."""
    adapter = Adapter("poet", "/adapters/poet", "base")
    told, used = named_lora(adapter), engine_lora(adapter)
    assert (told.lora_name, told.lora_path) == ("poet", "poet")
    assert (used.lora_name, used.lora_int_id, used.lora_path) == ("poet", lora_number("poet"), "/adapters/poet")


@given(st.sampled_from([None, "a", "b"]), st.sampled_from([None, "a", "b"]), st.sampled_from([None, "s"]))
def test_prompts_of_different_adapters_have_no_key_in_common(one: str | None, other: str | None, salt: str | None) -> None:
    """Of the same tokens and salt. With the same adapter all are the same, whoever makes them."""
    prompt = list(range(64))
    these, those = (BlockKeys(b"seed", 16).prompt(prompt, salt, adapter) for adapter in (one, other))
    assert set(these).isdisjoint(those) is (one != other)
    assert (list(these) == list(those)) is (one == other)


# -- configuration -----------------------------------------------------------------------------------------------------


def test_without_adapters_nothing_is_asked_of_vllm() -> None:
    """LoRA is off, and costs no memory."""
    assert not config().lora.enabled
    assert "enable_lora" not in config(max_loaded=7).engine_args(Role.DECODE)


def test_with_adapters_both_pools_have_the_same_room() -> None:
    """As many in vLLM's cache as in a batch: Baton says who goes."""
    lora = config(adapters={"poet": {"path": "/a"}}, max_loaded=7, max_rank=32)
    expected = {"enable_lora": True, "max_loras": 7, "max_cpu_loras": 7, "max_lora_rank": 32}
    for role in Role:
        assert expected.items() <= lora.engine_args(role).items()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"lora": {"adapters": {"demo": {"path": "/a"}}}}, "another name"),
        ({"lora": {"adapters": {"../x": {"path": "/a"}}}}, "pattern"),
        ({"lora": {"adapters": {"x": {}}}}, "path"),
        ({"lora": {"directory": "adapters"}}, "has to begin with `/`"),
        ({"lora": {"max_rank": 17}}, "max_rank"),
        ({"lora": {"max_loaded": 0}}, "max_loaded"),
        ({"engine": {"args": {"enable_lora": True}}}, "`lora`, at the top of args"),
        ({"decode": {"engine_args": {"max-loras": 3}}}, "`lora`, at the top of args"),
        ({"router": {"server_args": {"lora_modules": ["a=b"]}}}, "`lora`, at the top of args"),
        ({"engine": {"env": {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}}}, "lora.directory"),
    ],
)
def test_what_cannot_be_configured(args: dict[str, Any], said: str) -> None:
    """Each says what to write instead."""
    assert said in wrong(args)


# -- on this node ------------------------------------------------------------------------------------------------------


def adapter_in(folder: Path, name: str) -> None:
    (folder / name).mkdir()
    (folder / name / CONFIG).touch()


def test_named_ones_are_found_and_those_in_the_directory(tmp_path: Path) -> None:
    """Also what is put there later. Folders without PEFT's file are none; a name that is configured is where that says."""
    lora = config(adapters={"poet": {"path": "/poet", "base_model": "b"}}, directory=str(tmp_path)).lora
    catalogue = AdapterCatalogue(lora, "demo")
    for name in ("smith", "poet", "demo", "-odd"):
        adapter_in(tmp_path, name)
    (tmp_path / "empty").mkdir()
    assert catalogue.all() == [Adapter("poet", "/poet", "b"), Adapter("smith", str(tmp_path / "smith"))]
    assert catalogue.find("baker") is None
    adapter_in(tmp_path, "baker")
    assert catalogue.find("baker") == Adapter("baker", str(tmp_path / "baker"))
    for other in ("demo", "empty", "../smith", f"../{tmp_path.name}/smith", str(tmp_path / "smith"), "", None, 7):
        assert catalogue.find(other) is None


# -- slots -------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 4), st.lists(st.tuples(st.sampled_from("abcdef"), st.sets(st.sampled_from("abcdef"))), max_size=40))
def test_who_goes(slots: int, requests: list[tuple[str, set[str]]]) -> None:
    """Never more than fit; nobody that is in use; of the others whoever was not used for longest; nobody where there is a free slot."""
    held, order = AdapterSlots(slots, 0.5), list[str]()
    for name, in_use in requests:
        placed = held.place(name, in_use.__contains__)
        idle = [other for other in order if other not in in_use]
        if name in order:
            assert placed == Placed()
        elif len(order) < slots:
            assert placed == Placed(True)
        elif idle:
            assert placed == Placed(True, idle[0])
            order.remove(idle[0])
        else:
            assert placed is None
        if placed is not None:
            order = [*(other for other in order if other != name), name]
        assert list(held.names) == order
        assert len(order) <= slots


def test_what_a_load_takes_is_learnt() -> None:
    """The first one replaces what was thought, the next ones move it."""
    held = AdapterSlots(2, 0.5)
    held.loaded(0.1)
    assert held.load_s == pytest.approx(0.1)
    held.loaded(0.2)
    assert 0.1 < held.load_s < 0.2


def test_one_that_cannot_be_loaded_takes_no_slot() -> None:
    held = AdapterSlots(1, 0.5)
    held.place("a", lambda name: False)
    held.failed("a")
    assert held.place("b", lambda name: True) == Placed(True)


# -- loading -----------------------------------------------------------------------------------------------------------


class Desk:
    """Adapters of an engine whose loads last until the test lets them end."""

    def __init__(self, folder: Path, slots: int) -> None:
        self.may_end = asyncio.Event()
        self.fates: list[AdapterFate] = []
        self.calls: list[str] = []
        self.in_use: set[str] = set()
        self.engine = SimulatedEngine(SimulatedEngineConfig(adapter_slots=slots), sleep=self._sleep)
        catalogue = AdapterCatalogue(config(directory=str(folder)).lora, "demo")
        self.adapters = Adapters(self.engine, catalogue, AdapterSlots(slots, 0.5), lambda: 0.0, self.fates.append)

    async def _sleep(self, seconds: float) -> None:
        await self.may_end.wait()

    def place(self, name: str) -> bool:
        placed = self.adapters.place(self.adapters.find(name), self.in_use.__contains__)
        if placed:
            self.in_use.add(name)
        return placed

    def load(self, name: str) -> asyncio.Task[None]:
        """The one under way."""
        load = self.adapters.under_way(self.adapters.find(name))
        assert load is not None
        return load


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    for name in "abc":
        adapter_in(tmp_path, name)
    desk = Desk(tmp_path, 2)
    yield desk
    await desk.adapters.close()


async def test_all_who_want_one_wait_for_one_load(desk: Desk) -> None:
    """Whoever comes meanwhile, and whoever has gone: it is loaded once."""
    assert desk.place("a")
    assert desk.place("a")
    waiting = [asyncio.shield(desk.load("a")) for _ in range(3)]
    waiting[0].cancel()
    desk.may_end.set()
    await asyncio.gather(*waiting[1:])
    assert desk.adapters.under_way(desk.adapters.find("a")) is None
    assert desk.fates == [AdapterFate.LOADED]


async def test_one_that_is_being_loaded_does_not_go(desk: Desk) -> None:
    """Not even when nobody waits for it any more: what is said of it by then would be wrong."""
    assert desk.place("a")
    assert desk.place("b")
    desk.in_use.clear()
    assert not desk.place("c")
    loads = [desk.load("a"), desk.load("b")]
    desk.may_end.set()
    await asyncio.gather(*loads)
    assert desk.place("c")
    await desk.load("c")
    assert desk.adapters.load(1).names == ("b", "c")


async def test_one_that_fails_tells_all_who_wait(desk: Desk) -> None:
    """And is tried again for the next."""
    desk.engine._config = SimulatedEngineConfig(adapter_slots=0)
    desk.may_end.set()
    for _ in range(2):
        assert desk.place("a")
        with pytest.raises(AdapterError, match="`a` cannot be loaded"):
            await desk.load("a")
    assert desk.fates == [AdapterFate.FAILED] * 2
    assert desk.adapters.load(0).names == ()


async def test_one_that_does_not_make_room_stays(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine may have it still: it keeps its slot, the other one says whose fault it is, and room is made at the next try."""

    async def cannot(name: str) -> None:
        raise AdapterError(name, "no")

    desk.may_end.set()
    for name in "ab":
        assert desk.place(name)
        await desk.load(name)
    desk.in_use.clear()
    with monkeypatch.context() as patch:
        patch.setattr(desk.engine, "unload_adapter", cannot)
        assert desk.place("c")
        with pytest.raises(AdapterError, match="`c` cannot be loaded: `a` should have made room for it: no"):
            await desk.load("c")
    assert desk.adapters.load(0).names == ("a", "b")
    assert desk.place("c")
    await desk.load("c")
    assert desk.adapters.load(0).names == ("b", "c")


def test_one_that_this_node_lacks(desk: Desk) -> None:
    """Its request is told what to look at."""
    with pytest.raises(AdapterError, match=r"lora\.directory"):
        desk.adapters.find("nobody")
