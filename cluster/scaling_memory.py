"""What a scaler remembers, as it is kept for the next controller: tens of kilobytes, more where workers take long to start."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from autoscaler.base import Scaler

State = TypeVar("State")


class Kept(msgspec.Struct, frozen=True):
    """On the notice board."""

    scaler: str
    state: msgspec.Raw


class ScalingMemory(Generic[State]):
    """Writes states down and reads them again. A state is read as what the scaler's first one is."""

    def __init__(self, scaler: Scaler[State]) -> None:
        self._scaler = scaler
        self._decoder = msgspec.json.Decoder(type(scaler.first()))

    def written(self, state: State) -> bytes:
        """JSON."""
        return msgspec.json.encode(Kept(self._scaler.name, msgspec.Raw(msgspec.json.encode(state))))

    def read(self, text: bytes | None) -> State:
        """The state that was kept; a first one where none was, or another scaler's, or by a Baton whose states look different: what is
        forgotten so is learnt again within minutes, and how many workers are wanted is not in it."""
        if text is None:
            return self._scaler.first()
        try:
            kept = msgspec.json.decode(text, type=Kept)
            return self._decoder.decode(kept.state) if kept.scaler == self._scaler.name else self._scaler.first()
        except msgspec.DecodeError:
            return self._scaler.first()
