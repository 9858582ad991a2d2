"""Engine requests and outputs as bytes, with vLLM's own msgpack encoder. Never pickle: vLLM's decoder refuses it by default."""

from __future__ import annotations

from collections.abc import Sequence

from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, EngineCoreRequest
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

Frames = Sequence[bytes]
"""The message first, then the raw buffers of any large tensors."""


class RequestCodec:
    """``EngineCoreRequest`` <-> frames. Not thread-safe."""

    def __init__(self) -> None:
        self._encoder = MsgpackEncoder()
        self._decoder = MsgpackDecoder(EngineCoreRequest)

    def encode(self, request: EngineCoreRequest) -> Frames:
        frames: Frames = self._encoder.encode(request)
        return frames

    def decode(self, frames: Frames) -> EngineCoreRequest:
        """Raises msgspec.DecodeError or msgspec.ValidationError on anything that is not a request."""
        request: EngineCoreRequest = self._decoder.decode(frames)
        return request


class OutputsCodec:
    """A step's ``EngineCoreOutput``s <-> frames. Not thread-safe."""

    def __init__(self) -> None:
        self._encoder = MsgpackEncoder()
        self._decoder = MsgpackDecoder(EngineCoreOutputs)

    def encode(self, outputs: Sequence[EngineCoreOutput]) -> Frames:
        """One message for the outputs of one step."""
        frames: Frames = self._encoder.encode(EngineCoreOutputs(outputs=list(outputs)))
        return frames

    def decode(self, frames: Frames) -> list[EngineCoreOutput]:
        """Raises msgspec.DecodeError or msgspec.ValidationError on anything that is not outputs."""
        message: EngineCoreOutputs = self._decoder.decode(frames)
        outputs: list[EngineCoreOutput] = message.outputs
        return outputs
