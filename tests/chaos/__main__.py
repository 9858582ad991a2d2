"""``make chaos``: every fault at every step, a soak and an overload; prints the tables and writes them into docs/reliability.md."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Sequence

from tests.chaos import real, report
from tests.chaos.clusters import chaos_args, chaos_up, real_args
from tests.chaos.overload import overload
from tests.chaos.report import Row
from tests.chaos.scenes import Scene, all_scenes, play, some_scenes, undisturbed
from tests.chaos.soak import soak
from tests.chaos.stage import stage_on
from tests.support.reference_server import reference_up

SOAK_S = 1800.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--simulated", action="store_true", help="every fault at every step, on simulated engines: about 20 minutes")
    parser.add_argument("--some", action="store_true", help="a dozen of those: what the tests run")
    parser.add_argument("--only", default="", help="with --simulated or --some: scenes whose title or step contains this")
    parser.add_argument("--real", action="store_true", help="the shorter table, on real vLLM engines")
    parser.add_argument("--soak", type=float, metavar="SECONDS", help="mixed load with a fault every 20 s")
    parser.add_argument("--overload", action="store_true", help="four times the sustainable rate for a minute")
    parser.add_argument("--no-page", action="store_true", help="only print; leave docs/reliability.md alone")
    arguments = parser.parse_args()
    everything = not (arguments.simulated or arguments.some or arguments.real or arguments.soak or arguments.overload)
    page = not (arguments.no_page or arguments.some or arguments.only)
    broken: list[str] = []
    if everything or arguments.simulated or arguments.some:
        scenes = some_scenes() if arguments.some else all_scenes()
        chosen = [scene for scene in scenes if arguments.only in f"{scene.title}, {scene.step}"]
        rows = asyncio.run(simulated(chosen))
        broken += _judged(rows, [2.0, *(scene.gap_limit_s for scene in chosen)])
        _tell("simulated", report.markdown(rows), report.plain(rows), page)
    if everything or arguments.real:
        rows, reprefill_s = real_engines()
        broken += _judged(rows, [2.0 + reprefill_s] * len(rows))
        prefill = f"One prefill of everybody's context took up to {reprefill_s:.1f} s in that run."
        _tell("real", f"{report.markdown(rows)}\n\n{prefill}", f"{report.plain(rows)}\n{prefill}", page)
    if everything or arguments.overload:
        say("overload: a ramp, then four times what was sustained for a minute")
        with chaos_up(chaos_args(queue={"max_requests": 16})) as cluster:
            overloaded = overload(cluster, 60.0)
        broken += overloaded.broken() + overloaded.late()
        _tell("overload", overloaded.markdown(), overloaded.markdown(), page)
    if everything or arguments.soak:
        seconds = arguments.soak or SOAK_S
        say(f"soak: {seconds / 60:g} minutes, a fault every 20 s")
        with chaos_up(chaos_args()) as cluster:
            soaked = soak(cluster, seconds)
        broken += soaked.broken()
        _tell("soak", soaked.markdown(), soaked.markdown(), page)
    print("\n".join(["broken promises:", *broken] if broken else ["every promise was kept"]))
    return 1 if broken else 0


async def simulated(scenes: Sequence[Scene]) -> list[Row]:
    """Plays the scenes, one after the other, on one cluster."""
    say("starting two prefill and two decode workers with simulated engines")
    with chaos_up(chaos_args()) as cluster:
        async with stage_on(cluster) as stage:
            rows = [await undisturbed(stage)]
            for number, scene in enumerate(scenes):
                say(f"{number + 1} of {len(scenes)}: {scene.title}, {scene.step}")
                rows.append(await _or_not_played(play(stage, scene, number), scene.title, scene.step))
    return rows


def real_engines() -> tuple[list[Row], float]:
    """The shorter table, and how long prefilling what all have takes without a fault."""
    say("asking a plain vLLM server what the answers are")
    with reference_up() as reference:
        asks = real.expected(reference.url)

    async def play_all() -> tuple[list[Row], float]:
        async with stage_on(cluster) as stage:
            first, reprefill_s = await real.undisturbed(stage, asks)
            rows = [first]
            for number, scene in enumerate(real.SCENES):
                say(f"{scene.title}, {scene.step}")
                rows.append(await _or_not_played(real.play_real(stage, scene, number, asks), scene.title, scene.step))
            for title, more in (("clients leave", real.clients_leave_between_the_legs), ("rolling restart", real.rolling_restart)):
                say(title)
                rows.append(await _or_not_played(more(stage, asks), title, "all"))
            return rows, reprefill_s

    say("starting two prefill and two decode workers with vLLM engines")
    with chaos_up(real_args()) as cluster:
        return asyncio.run(play_all())


async def _or_not_played(scene: Awaitable[Row], title: str, step: str) -> Row:
    """A scene that cannot be played does not keep the others from being."""
    try:
        row = await scene
    except AssertionError as error:
        row = Row(title, step, 0, 0, 0, 0, 1, 0.0, 0, 0.0, (f"not played: {error}",))
    say("   " + "  ".join(row.cells[2:]) + "  " + "; ".join(row.notes)[:600])
    return row


def _judged(rows: Sequence[Row], gap_limits_s: Sequence[float]) -> list[str]:
    return [what for row, limit_s in zip(rows, gap_limits_s, strict=True) for what in row.broken(limit_s)]


def say(text: str) -> None:
    """Progress, on stderr."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


def _tell(section: str, markdown: str, plain: str, page: bool) -> None:
    print(plain, flush=True)
    if page:
        report.write(section, markdown)


if __name__ == "__main__":
    sys.exit(main())
