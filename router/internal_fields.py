"""Fields and headers by which a client could set something inside of the cluster, and what becomes of each.

vLLM's request classes serve as the interface between the halves of its own servers, too. Every field any of them has is in ``FIELDS``;
``tests/unit/test_internal_fields.py`` fails when a new vLLM has one more.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from router.constraints import check_constraint
from router.request_body import NotServableError, Top, top_of


class Treatment(enum.Enum):
    """What is done with a field that is there."""

    SERVED = enum.auto()
    """The client's own business; vLLM checks it."""
    STRIPPED = enum.auto()
    """Taken out without a word: clients of other servers send it by habit, and nothing they ask for is lost."""
    REFUSED = enum.auto()
    """400, unless it is null, 0 or false: a client that sends it expects something that it will not get."""
    NAME = enum.auto()
    """An identifier that ends up in books, logs and headers: short and printable, else 400."""
    NUMBERS = enum.auto()
    """Served, if every integer in it has 64 bits, one in quotes too: vLLM takes more, and no message to an engine can hold it."""
    COUNTED = enum.auto()
    """Multiplies the work: what one request may ask for is limited, else 400."""
    CONSTRAINT = enum.auto()
    """See ``router/constraints.py``."""
    INSIDE = enum.auto()
    """Served, less the names in ``STRIPPED_INSIDE``, if every integer in it has 64 bits."""
    PRIORITY = enum.auto()
    """Read by the gate, and taken out: no engine is told what a client asks for, only what it gets (``router/objectives.py``)."""
    TIER = enum.auto()
    """Read by the gate, and served."""


_S = Treatment.SERVED
FIELDS: Mapping[str, Treatment] = {
    "kv_transfer_params": Treatment.STRIPPED,  # names blocks of an engine and addresses to pull from
    "ec_transfer_params": Treatment.STRIPPED,  # the same for encoder caches
    "vllm_xargs": Treatment.INSIDE,  # vLLM looks into it for the two above, and more
    "priority": Treatment.PRIORITY,  # before everybody else, if it went on as it is
    "service_tier": Treatment.TIER,
    "prompt_embeds": Treatment.REFUSED,  # unpacked by torch's loader
    "request_id": Treatment.NAME,
    "session_id": Treatment.NAME,  # told to whoever listens to KV events
    "n": Treatment.COUNTED,
    "best_of": Treatment.COUNTED,
    "prompt": Treatment.COUNTED,  # a list of prompts is so many requests
    "messages": Treatment.COUNTED,  # likewise, in a batch
    "items": Treatment.COUNTED,
    "questions": Treatment.COUNTED,
    "input": Treatment.COUNTED,
    "stop": Treatment.COUNTED,  # looked for after every token, in the router
    "stop_sequences": Treatment.COUNTED,
    "bad_words": Treatment.COUNTED,  # tokenised one by one
    "response_format": Treatment.CONSTRAINT,
    "structured_outputs": Treatment.CONSTRAINT,
    "text": Treatment.CONSTRAINT,
    "output_config": Treatment.CONSTRAINT,
    "tools": Treatment.CONSTRAINT,
    # What a prompt is and how it is rendered. A `chat_template` is refused by vLLM unless the operator trusts clients with code.
    **dict.fromkeys(
        (
            "model",
            "input",
            "instructions",
            "system",
            "documents",
            "suffix",
            "query",
            "state",
            "images",
            "audio",
            "videos",
            "tokens",
            "previous_input_messages",
            "previous_response_id",
            "add_generation_prompt",
            "continue_final_message",
            "add_special_tokens",
            "chat_template",
            "chat_template_kwargs",
            "media_io_kwargs",
            "mm_processor_kwargs",
            "mm_payload",
            "return_mm_kwargs",
            "truncation",
            "truncation_side",
            "reasoning",
            "reasoning_effort",
            "include_reasoning",
            "thinking",
            "item_first",
        ),
        _S,
    ),
    # How it is sampled, and for how long.
    **dict.fromkeys(
        (
            "max_tokens",
            "max_completion_tokens",
            "max_output_tokens",
            "min_tokens",
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "seed",
            "presence_penalty",
            "frequency_penalty",
            "repetition_penalty",
            "length_penalty",
            "early_stopping",
            "use_beam_search",
            "logit_bias",
            "allowed_token_ids",
            "stop_token_ids",
            "ignore_eos",
            "watermarking",
            "repetition_detection",
            "thinking_token_budget",
            "label_token_ids",
            "apply_softmax",
            "parallel_tool_calls",
            "max_tool_calls",
            "truncate_prompt_tokens",
        ),
        Treatment.NUMBERS,
    ),
    "guided_decoding_backend": _S,
    "tool_choice": _S,
    # What the answer looks like.
    **dict.fromkeys(
        (
            "stream",
            "stream_options",
            "stream_interval",
            "echo",
            "logprobs",
            "top_logprobs",
            "prompt_logprobs",
            "logprob_token_ids",
            "skip_special_tokens",
            "spaces_between_special_tokens",
            "include_stop_str_in_output",
            "return_tokens_as_token_ids",
            "return_token_ids",
            "return_token_offsets",
            "return_prompt_text",
            "return_token_strs",
            "routed_experts_prompt_start",
            "include",
            "enable_response_messages",
        ),
        Treatment.NUMBERS,
    ),
    # Labels, and what is kept. `cache_salt` separates a client's prefixes from others'; it can only lose by it.
    **dict.fromkeys(
        (
            "user",
            "metadata",
            "prompt_cache_key",
            "cache_salt",
            "store",
            "background",
        ),
        _S,
    ),
}

STRIPPED_INSIDE = frozenset({"kv_transfer_params", "ec_transfer_params", "kv_cache_report_mode"})
STRIPPED_HEADERS = frozenset({b"x-data-parallel-rank", b"x-vllm-priority"})
"""The rank would be an engine's choice of the client's; vLLM's priority has no bounds, ``x-baton-priority`` has."""
NAME_HEADERS = frozenset({b"x-request-id", b"x-session-id"})

MAX_SEQUENCES = 256
"""Of one request: its prompts times its ``n``."""
MAX_ENTRIES = {"stop": 64, "stop_sequences": 64, "bad_words": 1024, "messages": 10_000, "input": 10_000}
"""Of a list. Rendering 100,000 messages stops a router for two seconds."""
_LISTS_OF_REQUESTS = ("prompt", "messages", "items", "questions")
_NAME = re.compile(rb"[\x21-\x7e]{1,128}")
_LONG = re.compile(rb"[0-9_]{19}|\\")  # only with one of these, an integer can have more than 64 bits
_INTEGER = re.compile(r"\s*([+-]?)([0-9][0-9_]*)(?:\.0*)?\s*", re.ASCII)  # what pydantic takes for one in quotes
_JSON_INTEGER = re.compile(rb"-?[0-9]+")
_NOTHING = {b"null", b"0", b"false", b"{}", b"[]", b'""'}

PRIORITIES = range(-100, 101)
"""The smaller is sooner, as vLLM has it."""

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a body asks for the request as a whole; None: it does not say."""

    priority: int | None = None
    service_tier: str | None = None


@dataclass(frozen=True, slots=True)
class VettedBody:
    """What may go on to vLLM's server, and what does not."""

    body: bytes
    """Nearly always the same object as came."""
    asked: Asked = Asked()


def vetted_body(body: bytes) -> VettedBody:
    """``body`` as it may go on to vLLM's server. Raises NotServableError for a 400."""
    top = top_of(body)
    if top is None:
        return VettedBody(body)
    asked = Asked(_priority(top.get("priority")), _service_tier(top.get("service_tier")))
    for name, value in top.items():
        treatment = FIELDS.get(name)
        if _LONG.match(bytes(value).lstrip(b"-")) or treatment in {Treatment.NUMBERS, Treatment.INSIDE}:
            _check_numbers(name, value, in_quotes=treatment is Treatment.NUMBERS)
        if treatment is Treatment.REFUSED and bytes(value) not in _NOTHING:
            raise NotServableError(f"`{name}` is not for clients; leave it out")
        if treatment is Treatment.NAME:
            _check_name(name, value)
        elif treatment is Treatment.CONSTRAINT:
            check_constraint(name, value)
    _check_counts(top)
    return VettedBody(_stripped(top) or body, asked)


def vetted_headers(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The headers that may go on. Raises NotServableError for a name that is none."""
    kept = [(name, value) for name, value in headers if name not in STRIPPED_HEADERS]
    for name, value in kept:
        if name in NAME_HEADERS and not _NAME.fullmatch(value):
            raise NotServableError(f"header `{name.decode()}` has to be 1 to 128 printable ASCII characters without blanks")
    return kept


def _priority(value: msgspec.Raw | None) -> int | None:
    """What a body's ``priority`` asks for. 0 is vLLM's default, and clients that send it by habit ask for nothing."""
    if value is None or bytes(value) in _NOTHING:
        return None
    given = _decoded(value)
    if isinstance(given, bool) or not isinstance(given, int) or given not in PRIORITIES:
        raise NotServableError("`priority` has to be an integer from -100, soonest, to 100, latest")
    return given or None


def _service_tier(value: msgspec.Raw | None) -> str | None:
    given = None if value is None else _decoded(value)
    if given is not None and not isinstance(given, str):
        raise NotServableError("`service_tier` has to be a string")
    return given


def _stripped(top: Top) -> bytes | None:
    changed = {name: value for name, value in top.items() if FIELDS.get(name) is not Treatment.STRIPPED}
    if bytes(changed.get("priority", msgspec.Raw(b"0"))) not in _NOTHING:
        del changed["priority"]
    if "vllm_xargs" in changed:
        inside = _decoded(changed["vllm_xargs"])
        if isinstance(inside, dict) and STRIPPED_INSIDE & inside.keys():
            kept = {name: value for name, value in inside.items() if name not in STRIPPED_INSIDE}
            changed["vllm_xargs"] = msgspec.Raw(msgspec.json.encode(kept))
    return msgspec.json.encode(changed) if changed != top else None


def _check_numbers(name: str, value: msgspec.Raw, in_quotes: bool) -> None:
    if not _LONG.search(value):
        return
    too_large = NotServableError(f"`{name}` has a number of more than 64 bits")
    try:
        pending = [json.loads(bytes(value))]
    except ValueError:  # it has thousands of digits
        raise too_large from None
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            pending += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            pending += item
        elif (isinstance(item, int) and not _fits(item)) or (in_quotes and isinstance(item, str) and _is_too_large(item)):
            raise too_large


def _is_too_large(text: str) -> bool:
    """Whether the text would be taken for an integer of more than 64 bits."""
    written = _INTEGER.fullmatch(text)
    if written is None:
        return False
    digits = written[2].replace("_", "").lstrip("0")
    return len(digits) > 19 or not _fits(int(f"{written[1]}{digits or 0}"))


def _fits(number: int) -> bool:
    return -(2**63) <= number < 2**63


def _check_name(name: str, value: msgspec.Raw) -> None:
    given = _decoded(value)
    if given is not None and not (isinstance(given, str) and _NAME.fullmatch(given.encode(errors="replace"))):
        raise NotServableError(f"`{name}` has to be 1 to 128 printable ASCII characters without blanks")


def _check_counts(top: Top) -> None:
    for name, most in MAX_ENTRIES.items():
        if len(_listed(top.get(name))) > most:
            raise NotServableError(f"`{name}` has more than {most} entries")
    sequences = 1
    for name in ("n", "best_of"):
        given = bytes(top.get(name, msgspec.Raw(b"null"))).strip()
        if given == b"null":
            continue
        if not _JSON_INTEGER.fullmatch(given):  # vLLM also takes "3000" and 3000.0 for what they say
            raise NotServableError(f"`{name}` has to be an integer, without quotes or a point")
        if (number := int(given)) > MAX_SEQUENCES:
            raise NotServableError(f"`{name}` has to be at most {MAX_SEQUENCES}")
        sequences *= max(1, number)
    for name in _LISTS_OF_REQUESTS:
        sequences *= max(1, _requests_in(name, top.get(name)))
    if sequences > MAX_SEQUENCES:
        raise NotServableError(
            f"the request asks for {sequences} sequences at once; at most {MAX_SEQUENCES} are served, so send several requests"
        )


def _requests_in(name: str, value: msgspec.Raw | None) -> int:
    """How many requests a list stands for. A prompt may also be a list of tokens, and messages are one conversation unless in a batch."""
    listed = _listed(value)
    if not listed:
        return 1
    first = bytes(listed[0]).lstrip()[:1]
    if name == "prompt" and first not in {b'"', b"["}:
        return 1
    if name == "messages" and first != b"[":
        return 1
    return len(listed)


def _listed(value: msgspec.Raw | None) -> list[msgspec.Raw]:
    if value is None or not bytes(value).lstrip().startswith(b"["):
        return []
    try:
        return msgspec.json.decode(value, type=list[msgspec.Raw])
    except msgspec.DecodeError:
        return []


def _decoded(value: msgspec.Raw) -> object:
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
