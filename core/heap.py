"""The garbage collector beside libraries of seven hundred thousand objects.

While vLLM is imported the collector walks again and again through what has been loaded so far, for a sixth of all the time, and finds
20,000 objects, some 10 MB. Once everything is loaded one full round takes 0.4 s, in which a router would send no token.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """The collector rests meanwhile. What there is in the end stays for good, and is never looked through. Not to be nested."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
