"""One router's view of the workers' caches, in tokens of a request's prompt."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from cluster.messages import KVChanges, KVSnapshot, Pulse, Refused, WantKV
from core.block_keys import BlockKey, BlockKeys, pack
from core.ids import Epoch, LegId, WorkerId
from core.worker import WorkerLoad
from router.prefix.prefixes import Prefixes
from router.prefix.prompt import prompt_keys
from tests.contract.engine_contract import ask, prompt_of

SEED = b"seed"
SIZE = 16
A, B = WorkerId("a"), WorkerId("b")
E = Epoch(1)
PULSE = Pulse(E, WorkerLoad())
PROMPT = prompt_of(100, 3)
MAKER = BlockKeys(SEED, SIZE)


def request(prompt: list[int] = PROMPT, sampling: dict[str, Any] | None = None, **changed: Any) -> Any:
    return msgspec.structs.replace(ask("r", prompt, 4, **(sampling or {})), **changed)


def follow(prefixes: Prefixes, worker: WorkerId, keys: list[BlockKey], size: int = SIZE) -> None:
    """Has it know all of a worker."""
    prefixes.enter(worker, size, SEED)
    want = prefixes.heard(worker, PULSE, 0.0)
    assert want is not None
    assert prefixes.heard(worker, KVSnapshot(E, want.number, 0, 0, True, pack(keys)), 0.0) is None
    assert prefixes.is_current(worker)


def image_at(offset: int) -> Any:
    return SimpleNamespace(mm_position=SimpleNamespace(offset=offset, length=10))


PLAIN = MAKER.prompt(PROMPT)
KEYS: dict[str, tuple[Any, list[BlockKey]]] = {
    "plain": (request(), PLAIN),
    "an empty salt is none": (request(cache_salt=""), PLAIN),
    "a salt": (request(cache_salt="s"), MAKER.prompt(PROMPT, "s")),
    "an adapter": (request(lora_request=SimpleNamespace(lora_name="l")), MAKER.prompt(PROMPT, adapter="l")),
    "an image in the third block": (request(mm_features=[image_at(70), image_at(40)]), PLAIN[:2]),
    "embeddings": (request(prompt_embeds=[0.5]), []),
    "no tokens": (request(prompt_token_ids=None), []),
}


@pytest.mark.parametrize(("asked", "keys"), KEYS.values(), ids=KEYS.keys())
def test_prompt_keys(asked: Any, keys: list[BlockKey]) -> None:
    """Those of the beginning that is named by tokens, salt and adapter."""
    assert list(prompt_keys(asked, {SIZE: MAKER}).by_size.get(SIZE, ())) == keys


def test_the_last_token_is_always_computed() -> None:
    """So of a prompt that fills its blocks, the last block is, though it is cached; of the others all full blocks are used."""
    prefixes = Prefixes()
    follow(prefixes, A, MAKER.prompt(PROMPT))
    for tokens, cached in ((100, 96), (97, 96), (96, 80), (17, 16)):
        assert prefixes.cached_tokens(prefixes.keys(request(PROMPT[:tokens])), 0.0) == {A: cached}
    assert prefixes.cached_tokens(prefixes.keys(request(PROMPT[:16])), 0.0) == {}


def test_prompt_logprobs_read_no_cache() -> None:
    """The engine computes all of such a prompt, and has its blocks afterwards."""
    prefixes = Prefixes()
    follow(prefixes, A, PLAIN)
    prefixes.enter(B, SIZE, SEED)
    asked = prefixes.keys(request(sampling={"prompt_logprobs": 1}))
    assert prefixes.cached_tokens(asked, 0.0) == {}
    prefixes.sent(B, asked, 0.0)
    assert prefixes.cached_tokens(prefixes.keys(request()), 0.0) == {A: 96, B: 96}


def test_promises_and_facts_together() -> None:
    """The larger counts; a refused prompt is not promised, and a lost worker has nothing."""
    prefixes = Prefixes()
    follow(prefixes, A, PLAIN[:2])
    follow(prefixes, B, PLAIN[:4])
    asked = prefixes.keys(request())
    prefixes.sent(A, asked, 0.0)
    prefixes.sent(B, prefixes.keys(request(PROMPT[:32])), 0.0)
    assert prefixes.cached_tokens(asked, 1.0) == {A: 96, B: 64}
    prefixes.refused(A, asked)
    assert prefixes.cached_tokens(asked, 1.0) == {A: 32, B: 64}
    prefixes.sent(A, asked, 0.0)
    prefixes.lost(A)
    assert prefixes.cached_tokens(asked, 1.0) == {B: 64}
    assert prefixes.heard(A, PULSE, 1.0) == WantKV(3)
    prefixes.leave(B)
    assert prefixes.cached_tokens(asked, 1.0) == {}


def test_workers_with_other_block_sizes() -> None:
    """Each is asked by its own keys."""
    prefixes = Prefixes()
    follow(prefixes, A, PLAIN)
    follow(prefixes, B, BlockKeys(SEED, 64).prompt(PROMPT), size=64)
    asked = prefixes.keys(request())
    assert set(asked.by_size) == {16, 64}
    assert prefixes.cached_tokens(asked, 0.0) == {A: 96, B: 64}
    prefixes.leave(B)
    assert set(prefixes.keys(request()).by_size) == {16}


def test_what_is_none_of_its_business() -> None:
    """Other messages, and workers that are no members, change and ask nothing."""
    prefixes = Prefixes()
    follow(prefixes, A, [])
    assert prefixes.heard(A, Refused(LegId("r:0"), E, "full"), 0.0) is None
    assert prefixes.heard(B, KVChanges(E, 1, stored=pack(PLAIN)), 0.0) is None
    prefixes.sent(B, prefixes.keys(request()), 0.0)
    assert prefixes.cached_tokens(prefixes.keys(request()), 0.0) == {}
    assert not prefixes.is_current(B)


def test_a_new_life_has_nothing() -> None:
    """Its predecessor's blocks are gone with it."""
    prefixes = Prefixes()
    follow(prefixes, A, PLAIN)
    prefixes.enter(A, SIZE, SEED)
    assert prefixes.cached_tokens(prefixes.keys(request()), 0.0) == {}
    assert prefixes.heard(A, PULSE, 0.0) == WantKV(1)
