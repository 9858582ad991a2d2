"""Nothing inside of the cluster can be set by a request: every field, header and route that vLLM's server has is decided upon."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import vllm.entrypoints
from fastapi import FastAPI

from deploy.demo_model import ensure_demo_model
from router.constraints import MAX_BYTES, MAX_GRAMMAR, MAX_ITEMS, MAX_PATTERN, MAX_PROPERTIES, MAX_TOOLS_BYTES
from router.front_half import build_server, front_half_config
from router.internal_fields import (
    FIELDS,
    MAX_ENTRIES,
    MAX_SEQUENCES,
    NAME_HEADERS,
    STRIPPED_HEADERS,
    Asked,
    Treatment,
    vetted_body,
    vetted_headers,
)
from router.request_body import DEEPEST, NotServableError, is_deeper_than
from router.served_paths import HEALTH, INFERENCE, NOT_SERVED, SERVED, SMALL, remove_unserved

SWITCHES = ("VLLM_SERVER_DEV_MODE", "VLLM_ALLOW_RUNTIME_LORA_UPDATING")
"""What brings vLLM's routes for developers and for changing models."""


def app_of_vllm() -> FastAPI:
    model = str(ensure_demo_model())
    return build_server(model, "demo", front_half_config(model, "demo", {"max_model_len": 512, "dtype": "float32"}), {})


@pytest.fixture(scope="module")
def app() -> FastAPI:
    """vLLM's app as it comes."""
    return app_of_vllm()


@pytest.fixture(scope="module")
def whole_app() -> Iterator[FastAPI]:
    """The same with every route that an environment variable can bring."""
    with pytest.MonkeyPatch.context() as patch:
        for name in SWITCHES:
            patch.setenv(name, "1")
        yield app_of_vllm()


# -- tables that know everything ---------------------------------------------------------------------------------------------


def request_fields(app: FastAPI) -> dict[str, set[str]]:
    """The fields at the top of each route's body, by route. A body may be one of several classes."""
    document = app.openapi()

    def fields(schema: dict[str, Any]) -> set[str]:
        if "$ref" in schema:
            return fields(document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]])
        names = set(schema.get("properties", ()))
        return names.union(*(fields(kind) for key in ("anyOf", "oneOf", "allOf") for kind in schema.get(key, ())))

    bodies = {
        path: operation["requestBody"]["content"]["application/json"]["schema"]
        for path, operations in document["paths"].items()
        for operation in operations.values()
        if "requestBody" in operation
    }
    return {path: fields(schema) for path, schema in bodies.items() if path in SERVED}


def test_the_table_knows_every_field(app: FastAPI) -> None:
    """A field new in vLLM has to be decided upon. Fields that no class has any more may go."""
    found = request_fields(app)
    assert found.keys() >= INFERENCE
    assert set().union(*found.values()) - FIELDS.keys() == set()
    assert FIELDS.keys() - set().union(*found.values()) == set()


def test_the_lists_know_every_route(whole_app: FastAPI) -> None:
    """A route new in vLLM is not served, and somebody has to say whether it should be."""
    routes = {str(getattr(route, "path", route)) for route in whole_app.routes}
    assert routes - SERVED - NOT_SERVED.keys() == set()
    assert SERVED & NOT_SERVED.keys() == set()
    assert SERVED - routes == {"/-/healthz", "/-/routes"}, "Serve's own"
    assert INFERENCE | SMALL | HEALTH <= SERVED


def test_routes_that_are_not_served_are_gone(whole_app: FastAPI) -> None:
    """From the app and from its document, however it was started."""
    remove_unserved(whole_app)
    assert {getattr(route, "path", "") for route in whole_app.routes} <= SERVED
    assert whole_app.openapi()["paths"].keys() <= SERVED


def test_the_lists_know_every_header() -> None:
    """vLLM reads these headers of a request; one more has to be decided upon."""
    read = set()
    for path in Path(vllm.entrypoints.__path__[0]).rglob("*.py"):
        if {"cli", "cohere", "speech_to_text", "scale_out"} & set(path.parts):
            continue  # none of it is in the app
        tree = ast.parse(path.read_text())
        constants = {
            target.id: node.value.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("headers.get"):
                name = node.args[0]
                read.add(str(name.value if isinstance(name, ast.Constant) else constants[ast.unparse(name)]).lower().encode())
    harmless = {b"content-type", b"authorization", b"endpoint-load-metrics-format"}  # the last: whether the load is told in a header
    assert read - harmless == STRIPPED_HEADERS | NAME_HEADERS


# -- fields ------------------------------------------------------------------------------------------------------------------

STRIPPED: dict[str, tuple[str, str]] = {
    "transfer parameters": ('{"kv_transfer_params":{"do_remote_prefill":true},"n":1}', '{"n":1}'),
    "of encoders": ('{"ec_transfer_params":{"a":1},"n":1}', '{"n":1}'),
    "spelt with escapes": ('{"kv\\u005ftransfer_params":{"a":1},"n":1}', '{"n":1}'),
    "twice": ('{"kv_transfer_params":1,"kv_transfer_params":2,"n":1}', '{"n":1}'),
    "inside of vllm_xargs": ('{"vllm_xargs":{"kv_transfer_params":"x","ec_transfer_params":["y"],"own":1}}', '{"vllm_xargs":{"own":1}}'),
    "behind blanks": (' {\n "kv_transfer_params" : [] , "n" : 1 } ', '{"n":1}'),
    "a priority, which the gate has read": ('{"priority":-7,"n":1}', '{"n":1}'),
}


@pytest.mark.parametrize(("given", "kept"), STRIPPED.values(), ids=STRIPPED.keys())
def test_internal_fields_are_taken_out(given: str, kept: str) -> None:
    """However they are written; all else stays as it was."""
    assert vetted_body(given.encode()).body == kept.encode()


ASKED: dict[str, tuple[str, Asked]] = {
    "nothing": ("{}", Asked()),
    "no JSON": ("{", Asked()),
    "by habit": ('{"priority":0,"service_tier":null}', Asked()),
    "sooner": ('{"priority":-100}', Asked(priority=-100)),
    "later": ('{"priority": 100 }', Asked(priority=100)),
    "a tier": ('{"service_tier":"flex"}', Asked(service_tier="flex")),
    "both": ('{"service_tier":"auto","priority":3}', Asked(3, "auto")),
}


@pytest.mark.parametrize(("body", "asked"), ASKED.values(), ids=ASKED.keys())
def test_what_a_body_asks_for_the_request_as_a_whole(body: str, asked: Asked) -> None:
    """Told to the gate. 0 is vLLM's default priority, which many clients always send."""
    assert vetted_body(body.encode()).asked == asked


UNTOUCHED = [
    '{"prompt":"kv_transfer_params \\u005f \\" [[[[","n":1}',
    '{"messages":[{"role":"user","content":"x"}],"metadata":{"kv_transfer_params":"mine"}}',
    '{"priority":0,"request_id":null,"request_id":"my-id.1","prompt_embeds":null,"vllm_xargs":{"a":[1,"b"]}}',
    '{"a" : 1.50, "no such field":[1e5]}',
    '{"prompt":[1,2,3],"n":256}',
    '{"n": 2 ,"best_of": null }',
    '{"seed":9223372036854775807,"top_k":-9223372036854775808,"vllm_xargs":{"a":"100000000000000000000"}}',
    '{"temperature":0.12345678901234567890123,"top_p":"0.12345678901234567890123","stop":["12345678901234567890"]}',
    '{"prompt":"12345678901234567890","messages":[{"content":"12345678901234567890"}],"user":"12345678901234567890"}',
    '{"tools":[{"function":{"parameters":{"maximum":18446744073709551616}}}]}',
    '{"not json"',
]


@pytest.mark.parametrize("body", UNTOUCHED)
def test_everything_else_is_handed_on_as_it_is(body: str) -> None:
    """The very same bytes, those that are no JSON too: vLLM's words for them are better."""
    given = body.encode()
    assert vetted_body(given).body is given


def chained(levels: int, inner: str = "1") -> str:
    return '{"a":' * levels + inner + "}" * levels


def constraint(**schema: Any) -> str:
    return json.dumps({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}})


def structured(**outputs: Any) -> str:
    return json.dumps({"structured_outputs": outputs})


REFUSED: dict[str, tuple[str, str]] = {
    "a priority below all": ('{"priority":-101}', "`priority` has to be an integer from -100"),
    "a priority above all": ('{"priority":101}', "`priority`"),
    "a priority in quotes": ('{"priority":"5"}', "`priority`"),
    "half a priority": ('{"priority":1.5}', "`priority`"),
    "a priority that is none": ('{"priority":true}', "`priority`"),
    "a tier that is no word": ('{"service_tier":5}', "`service_tier` has to be a string"),
    "tensors": ('{"prompt_embeds":"AAAA"}', "`prompt_embeds`"),
    "a long id": (json.dumps({"request_id": "x" * 129}), "`request_id`"),
    "an id of lines": ('{"request_id":"a\\nb"}', "`request_id`"),
    "an id that is none": ('{"request_id":{"a":1}}', "`request_id`"),
    "a long name of a conversation": (json.dumps({"session_id": "x" * 10**6}), "`session_id`"),
    "n": ('{"n":100000}', "`n`"),
    "n with a fraction": ('{"n":1e9}', "`n`"),
    "n as text": ('{"n":"3000"}', "`n`"),
    "n as a small text": ('{"n":"3"}', "`n`"),
    "n with nothing behind the point": ('{"n":300.0}', "`n`"),
    "n as a truth": ('{"n":true}', "`n`"),
    "n as a list": ('{"n":[1]}', "`n`"),
    "best_of": ('{"best_of":257}', "`best_of`"),
    "best_of as text": ('{"best_of":"3000"}', "`best_of`"),
    "best_of with nothing behind the point": ('{"best_of":2.0}', "`best_of`"),
    "n of thousands of digits": ('{"n":' + "9" * 5000 + "}", "`n`"),
    "a number of more than 64 bits": ('{"top_k":10000000000000000000000000}', "64 bits"),
    "one just too large": ('{"seed":9223372036854775808}', "64 bits"),
    "one just too small": ('{"seed":-9223372036854775809}', "64 bits"),
    "one of thousands of digits": ('{"no such field":' + "9" * 5000 + "}", "64 bits"),
    "one as text": ('{"top_k":"100000000000000000000"}', "64 bits"),
    "one as text with all that may stand around": ('{"top_k":" +1_00000000000000000000.00 "}', "64 bits"),
    "one as text with escapes": ('{"top_k":"' + "\\u0031" * 20 + '"}', "64 bits"),
    "one as text in another field": ('{"stream_interval":"100000000000000000000"}', "64 bits"),
    "one inside": ('{"repetition_detection":{"max_pattern_size":100000000000000000000}}', "64 bits"),
    "one inside as text": ('{"repetition_detection":{"max_pattern_size":"100000000000000000000"}}', "64 bits"),
    "one in a list": ('{"stop_token_ids":[1,[100000000000000000000]]}', "64 bits"),
    "one as a name": ('{"logit_bias":{"100000000000000000000":1}}', "64 bits"),
    "one in vllm_xargs": ('{"vllm_xargs":{"a":[100000000000000000000]}}', "64 bits"),
    "one of thousands of digits inside": ('{"vllm_xargs":{"a":' + "9" * 5000 + "}}", "64 bits"),
    "many prompts": (json.dumps({"prompt": ["a"] * 257}), "257 sequences"),
    "many prompts of tokens": (json.dumps({"prompt": [[1]] * 257}), "257 sequences"),
    "prompts times n": (json.dumps({"prompt": ["a"] * 20, "n": 20}), "400 sequences"),
    "a batch of conversations": (json.dumps({"messages": [[{}]] * 300}), "300 sequences"),
    "many items to score": (json.dumps({"items": ["a"] * 300}), "300 sequences"),
    "many stop strings": (json.dumps({"stop": ["a"] * 65}), "`stop`"),
    "many bad words": (json.dumps({"bad_words": ["a"] * 1025}), "`bad_words`"),
    "many messages": (json.dumps({"messages": [{}] * 10_001}), "`messages`"),
    "a list": ("[]", "JSON object"),
    "text": ('"x"', "JSON object"),
    "not a number": ('{"temperature":NaN}', "NaN"),
    "infinity": ('{"temperature":-Infinity}', "NaN"),
    "half a character as a name": ('{"\\ud800":1}', "not part of"),
    "too deep": (chained(DEEPEST + 1), "100 levels"),
    "far too deep": ("[" * 1_000_000, "100 levels"),
    "deep behind quotes": ('{"a":"\\\\","b":' + chained(DEEPEST) + "}", "100 levels"),
    "a constraint that is none": ('{"structured_outputs":"x"}', "has to be an object"),
    "a large constraint": (constraint(description="x" * MAX_BYTES), "larger than"),
    "large tools": (json.dumps({"tools": [{"description": "x" * MAX_TOOLS_BYTES}]}), "larger than"),
    "many properties": (constraint(properties={f"p{i}": {} for i in range(MAX_PROPERTIES + 1)}), "properties"),
    "many items": (constraint(type="array", minItems=10**12), "items"),
    "many items, with a fraction": (constraint(type="array", maxItems=1e12), "items"),
    "many items in all": (constraint(prefixItems=[{"minItems": 1000}] * (MAX_ITEMS // 1000 + 1)), "items"),
    "a long regex": (structured(regex="a" * (MAX_PATTERN + 1)), "`regex`"),
    "groups in groups": (structured(regex="(" * 33 + "a" + ")*" * 33), "groups"),
    "a pattern in a schema": (constraint(items={"pattern": "(" * 33}), "groups"),
    "a pattern for names": (constraint(patternProperties={"(" * 33: {}}), "groups"),
    "a long grammar": (structured(grammar="x" * (MAX_GRAMMAR + 1)), "`grammar`"),
    "a schema in a string": (structured(json=json.dumps({"minItems": 10**12})), "items"),
    "a deep schema in a string": (structured(json=chained(101)), "100 levels"),
    "tags in a string": (structured(structural_tag=json.dumps({"structures": [{"schema": {"minItems": 10**12}}]})), "items"),
    "of the responses API": (json.dumps({"text": {"format": {"schema": {"minItems": 10**12}}}}), "items"),
    "of Anthropic's": (json.dumps({"output_config": {"format": {"schema": {"minItems": 10**12}}}}), "items"),
    "of a tool": (json.dumps({"tools": [{"function": {"parameters": {"minItems": 10**12}}}]}), "items"),
}


@pytest.mark.parametrize(("body", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_may_not_be_asked(body: str, said: str) -> None:
    """Refused with what is wrong, in words for the client."""
    with pytest.raises(NotServableError, match=said):
        vetted_body(body.encode())


def test_bytes_that_are_no_text_are_told_where_they_are() -> None:
    """vLLM's server says of these only that the body could not be parsed."""
    with pytest.raises(NotServableError, match="not UTF-8 at byte 6"):
        vetted_body(b'{"a":"\xff\xfe"}')


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig"])
def test_other_encodings_are_refused(encoding: str) -> None:
    """Python's JSON takes them, and nobody who looks at the bytes would find anything."""
    with pytest.raises(NotServableError, match="UTF-8"):
        vetted_body('{"kv_transfer_params":{"a":1}}'.encode(encoding))


def test_headers() -> None:
    """Those that choose an engine or a place in its queue are taken out; names have to be names."""
    own = [(b"x-request-id", b"my-id"), (b"traceparent", b"00-1-2-03"), (b"content-type", b"application/json")]
    assert vetted_headers([*own, (b"x-data-parallel-rank", b"1"), (b"x-vllm-priority", b"-9")]) == own
    for value in (b"", b"x" * 129, b"a b", b"a\xff", b"a\x00"):
        with pytest.raises(NotServableError, match="x-request-id"):
            vetted_headers([(b"x-request-id", value)])


def test_every_treatment_that_refuses_has_a_case() -> None:
    """The table above is whole."""
    tried = {name for body, _ in REFUSED.values() if body.startswith("{") and body.endswith("}") for name in _names(body)}
    needed = {name for name, how in FIELDS.items() if how in {Treatment.REFUSED, Treatment.NAME, Treatment.CONSTRAINT}}
    assert needed <= tried
    assert MAX_ENTRIES.keys() <= FIELDS.keys()
    assert MAX_SEQUENCES <= 1024


def _names(body: str) -> set[str]:
    try:
        return set(msgspec.json.decode(body, type=dict[str, msgspec.Raw]))
    except msgspec.DecodeError:
        return set()


# -- depth -------------------------------------------------------------------------------------------------------------------

DEPTHS = {
    "nothing": (b"{}", 1),
    "brackets in strings": (b'{"a":"[[[[[[[[","b":["]]]]{{{{"]}', 2),
    "escaped quotes": (b'{"a":"\\"[[[[[","b":[[1]]}', 3),
    "escaped backslashes before quotes": (b'{"a":"\\\\","b":[[[1]]]}', 4),
    "many in a row": (b"[" + b"[]," * 1000 + b"[]]", 2),
    "empty strings": (b'["","",["",[""]],""]', 3),
}


@pytest.mark.parametrize(("body", "depth"), DEPTHS.values(), ids=DEPTHS.keys())
def test_depth(body: bytes, depth: int) -> None:
    """Counted outside of strings only, exactly."""
    padded = body + b" " + b'["[]{}[]{}[]{}"]'  # enough brackets for the first, cheap look never to decide
    assert is_deeper_than(depth - 1, padded)
    assert not is_deeper_than(depth, padded)
