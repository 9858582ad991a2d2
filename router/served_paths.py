"""Which routes of vLLM's server a router serves. Those that are not here are taken out of the app, those that come with a new vLLM too."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import FastAPI

from router.console.files import FILES, WITH_SLASH

INFERENCE = frozenset(
    {
        "/v1/chat/completions",
        "/v1/chat/completions/batch",
        "/v1/completions",
        "/v1/messages",
        "/v1/responses",
        "/v1/systemone",
        "/generative_scoring",
    }
)
"""What costs the workers something: refused early when there is too much to do."""

SMALL = frozenset({"/tokenize", "/detokenize", "/v1/messages/count_tokens"})
"""No model's context limits these: ten megabytes are twenty seconds in the one thread that tokenises for everybody."""

SMALL_BYTES = 1024 * 1024

HEALTH = frozenset({"/health", "/ping", "/-/healthz", "/-/routes"})
"""What load balancers and Ray Serve ask. They tell nothing but that the router lives."""

WITHOUT_KEY = HEALTH | FILES.keys() | {WITH_SLASH}
"""These, and the console's page, which is the same for everybody: it asks whoever looks for a key, and with that for what to show."""

SERVED = (
    INFERENCE
    | SMALL
    | HEALTH
    | {
        "/v1/models",
        "/v1/responses/{response_id}",
        "/v1/responses/{response_id}/cancel",
        "/version",
        "/load",
        "/metrics",
        "/openapi.json",
        "/docs",
        "/docs/oauth2-redirect",
        "/redoc",
    }
)

NOT_SERVED: Mapping[str, str] = {
    "/kv_event_sources": "addresses inside the cluster",
    "/invocations": "another name for all of the above, with a store of its own for callers' state; no limit counts it",
    "/scale_elastic_ep": "the number of engines is the controller's business",
    "/is_scaling_elastic_ep": "as above",
    "/v1/chat/completions/render": "half a server, for setups that Baton takes the place of",
    "/v1/messages/render": "as above",
    "/v1/completions/render": "as above",
    "/v1/responses/render": "as above",
    "/v1/chat/completions/derender": "as above",
    "/v1/completions/derender": "as above",
    "/inference/v1/generate": "takes KV transfer parameters from its caller",
    "/inference/v1/abort_requests": "ends requests of others",
    # Only with VLLM_ALLOW_RUNTIME_LORA_UPDATING, a profiler, or VLLM_SERVER_DEV_MODE.
    "/v1/load_lora_adapter": "loads files that a client names",
    "/v1/unload_lora_adapter": "takes an adapter from others",
    "/start_profile": "slows everybody down and writes files",
    "/stop_profile": "as above",
    "/reset_prefix_cache": "takes the cache from others",
    "/reset_mm_cache": "as above",
    "/reset_encoder_cache": "as above",
    "/collective_rpc": "calls anything in an engine",
    "/server_info": "tells the configuration and the environment",
    "/sleep": "stops the engines",
    "/wake_up": "as above",
    "/is_sleeping": "as above",
    "/pause": "as above",
    "/resume": "as above",
    "/is_paused": "as above",
    "/init_weight_transfer_engine": "changes the model",
    "/start_weight_update": "as above",
    "/update_weights": "as above",
    "/finish_weight_update": "as above",
    "/start_draft_weight_update": "as above",
    "/shutdown_weight_transfer_engine": "as above",
    "/update_weight_version": "as above",
    "/weight_checker": "as above",
    "/weight_info": "as above",
    "/release_kv_cache_memory": "takes the cache from others",
    "/abort_requests": "ends requests of others",
    "/adapters": "loads files that a client names",
    "/adapters/{adapter_name}": "as above",
    "/get_world_size": "what an engine is made of",
}
"""Why not. ``tests/unit/test_internal_fields.py`` fails when vLLM has a route that is in neither list."""


def remove_unserved(app: FastAPI) -> None:
    """Takes every route out of the app that is not in ``SERVED``: it answers 404 then, as for any unknown path."""
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", None) in SERVED]
    app.openapi_schema = None  # made anew when it is asked for
