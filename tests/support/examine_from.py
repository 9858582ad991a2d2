"""An examiner of `baton doctor` in a process of its own, on whichever machine that runs: asked by lines of JSON, for tests without Ray.

``python -m tests.support.examine_from ADDRESS keep`` prints an offer and waits for the end of its input; ``... read OFFER`` pulls it and
prints the link.
"""

from __future__ import annotations

import sys

import msgspec

from deploy.doctor.examiner import Examiner
from kv_transfer.nixl_probe import Offer

SIZE_BYTES = 8 << 20


class Kept(msgspec.Struct, frozen=True):
    """What a reader has to know."""

    address: str
    port: int
    offer: Offer | str


def main(address: str, what: str, told: str = "") -> None:
    examiner = Examiner(address)
    if what == "keep":
        kept = Kept(address, examiner.serve_tcp(), examiner.offer(SIZE_BYTES))
        _say(kept)
        sys.stdin.read()
    else:
        kept = msgspec.json.decode(told, type=Kept)
        link = examiner.pull(kept.address, kept.address, kept.port, kept.offer)
        _say(link)


def _say(what: msgspec.Struct) -> None:
    sys.stdout.write(f"{msgspec.json.encode(what).decode()}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
