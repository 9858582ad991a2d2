"""``baton demo``: one prefill and one decode worker here, one answer streamed, where its time went, and what to try next."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deploy.application import Deployment

EXAMPLES = """\
examples:
  baton demo                                  the small random model, until Ctrl-C
  baton demo --once                           one answer; status 0 only if two workers made it
  baton demo --model Qwen/Qwen3-0.6B          a model of your own: a directory, or a hub name
"""

PROMPT = (
    "A relay team wins by its hand-offs. The first runner reads the whole question, the second tells the answer, and what "
    "goes from hand to hand between them is the baton. Tell me about a race that was won that way."
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "demo",
        help="see it work on this machine",
        description="Serves a small model on one prefill and one decode worker, and shows one request's way through them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", help="a model directory or hub name (default: a small random one, built here)")
    parser.add_argument("--port", type=int, default=8000, help="the HTTP port (default: 8000)")
    parser.add_argument("--once", action="store_true", help="end after one answer")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    import yaml

    from core.errors import ConfigError
    from deploy import run_state
    from deploy.check_config import check
    from deploy.cmd_up import serve_here

    if running := run_state.read():
        print(f"baton is up already (process {running.pid}, {running.url}); end it with: baton down", file=sys.stderr)
        return 1
    path = Path(__file__).parent / "config" / "cpu-demo.yaml"
    document = yaml.safe_load(path.read_text())
    document["http_options"]["port"] = arguments.port
    if arguments.model:
        args = document["applications"][0]["args"]
        args["model"] = str(Path(arguments.model).resolve()) if Path(arguments.model).is_dir() else arguments.model
        args["engine"]["args"].pop("dtype", None)  # as the model was trained
    try:
        file = check(yaml.safe_dump(document), "the demo's configuration")
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    url = f"http://127.0.0.1:{arguments.port}"

    async def show(deployment: Deployment, stop: asyncio.Event) -> int:
        timeline = await asyncio.to_thread(stream_one, url, file.config.served_name)
        print(picture(timeline))
        by_two = bool(timeline["was_split"] and timeline["was_transferred"])
        if arguments.once:
            return 0 if by_two else 1
        print(next_steps(url, file.config.served_name))
        await stop.wait()
        return 0

    return serve_here(file, "baton demo", show)


def stream_one(url: str, model: str) -> dict[str, Any]:
    """Streams one chat answer to the terminal with the official client; returns the request's timeline."""
    import openai

    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120.0) as client:
        print(f"\nyou    {PROMPT}\n\nmodel  ", end="", flush=True)
        request_id = ""
        messages: list[Any] = [{"role": "user", "content": PROMPT}]
        for chunk in client.chat.completions.create(model=model, messages=messages, max_tokens=48, stream=True, temperature=0.0):
            request_id = chunk.id
            if chunk.choices and chunk.choices[0].delta.content:
                print(chunk.choices[0].delta.content, end="", flush=True)
        print("\n")
        answer: Any = client.get(f"/baton/requests/{request_id}", cast_to=object)
    timeline: dict[str, Any] = answer["timelines"][0]
    return timeline


def picture(timeline: dict[str, Any]) -> str:
    """One request's timeline, drawn to scale."""
    phases = {name: seconds for name, seconds in timeline["phases"].items() if seconds is not None}
    total = sum(phases.values()) or 1.0
    megabytes, milliseconds = timeline["transfer_bytes"] / 1e6, 1e3 * timeline["transfer_s"]
    where = {
        "route": "router",
        "queue": timeline["prefill_worker"],
        "prefill": f"{timeline['prefill_worker']}: {timeline['prompt_tokens']} prompt tokens, {timeline['cached_tokens']} cached",
        "handoff": f"{megabytes:.2f} MB of KV in {milliseconds:.1f} ms to {timeline['decode_worker']}",
        "decode": f"{timeline['decode_worker']}: {timeline['output_tokens']} tokens"
        + (f", {timeline['tokens_per_s']:.0f} tokens/s" if timeline["tokens_per_s"] else ""),
    }
    lines, at = [], 0.0
    for name, seconds in phases.items():
        start, width = round(30 * at / total), max(1, round(30 * seconds / total))
        bar = (" " * min(start, 29) + "█" * width)[:30]
        lines.append(f"  {name:<8} {1e3 * seconds:8.1f} ms  {bar:<30}  {where[name]}")
        at += seconds
    aside = "; the hand-off is not in that" if timeline["was_split"] else ""
    lines.append(f"  first token to the client after {1e3 * (timeline['first_token_s'] or 0.0):.1f} ms{aside}")
    lines.append(f"  {verdict(timeline)}")
    return "where the time went\n" + "\n".join(lines) + "\n"


def verdict(timeline: dict[str, Any]) -> str:
    """In one sentence, whether two workers really shared the work."""
    if not timeline["was_split"]:
        return f"served by one worker, {timeline['decode_worker']}: {timeline['plan_reason']}"
    if timeline["was_transferred"]:
        held = timeline["transferred_tokens"] + timeline["decode_cached_tokens"]
        return f"served by two workers: decode took over the KV of {held} tokens and computed {timeline['recomputed_tokens']} itself"
    return f"the KV did not arrive: decode computed {timeline['recomputed_tokens']} prompt tokens again"


def next_steps(url: str, model: str) -> str:
    """What to type in another terminal."""
    return f"""\
try next, in another terminal

  curl {url}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "hello"}}], "stream": true, "max_tokens": 32}}'

  python -c "
  import openai
  client = openai.OpenAI(base_url='{url}/v1', api_key='none')
  print(client.chat.completions.create(model='{model}', messages=[dict(role='user', content='hello')], max_tokens=32))"

  curl {url}/v1/baton/requests        where the time of the newest requests went
  .venv/bin/baton status              the workers

Ctrl-C ends everything.
"""
