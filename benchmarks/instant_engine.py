"""An instant engine as vLLM's own front half knows one: a process that speaks vLLM's engine sockets, with the simulated engine inside.

    python -m benchmarks.instant_engine INPUT_ADDRESS OUTPUT_ADDRESS

With it the plain vLLM server runs unchanged in front of one engine that costs nothing but its messages: what Baton's router,
ingress and data plane are measured against.
"""

from __future__ import annotations

import asyncio
import sys

import msgspec
import zmq
import zmq.asyncio
from vllm.v1.engine import EngineCoreOutputs, EngineCoreReadyResponse, EngineCoreRequest, EngineCoreRequestType, UtilityOutput
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder, UtilityResult

from core.ids import LegId
from core.worker import EngineFacts
from engine.sim_config import SimulatedEngineConfig
from engine.sim_timing import ConstantTime
from engine.simulated import SimulatedEngine

INSTANT = SimulatedEngineConfig(
    timing=ConstantTime(seconds=0.0), vocab_size=4096, num_blocks=65_536, max_num_seqs=512, special_token_ids=frozenset(range(16))
)


async def serve(input_address: str, output_address: str) -> None:
    """Serves until killed."""
    engine = SimulatedEngine(INSTANT)
    facts = await engine.start(lambda phase: None)
    context = zmq.asyncio.Context()
    requests, outputs = context.socket(zmq.DEALER), context.socket(zmq.PUSH)
    requests.setsockopt(zmq.IDENTITY, (0).to_bytes(2, "little"))
    requests.connect(input_address)
    outputs.connect(output_address)
    await requests.send(msgspec.msgpack.encode(_ready(facts)))
    encoder = MsgpackEncoder()

    async def receive() -> None:
        add, generic = MsgpackDecoder(EngineCoreRequest), MsgpackDecoder()
        while True:
            kind, *frames = await requests.recv_multipart()
            if kind == EngineCoreRequestType.ADD.value:
                await engine.add(add.decode(frames))
            elif kind == EngineCoreRequestType.ABORT.value:
                await engine.abort([LegId(name) for name in generic.decode(frames)])
            elif kind == EngineCoreRequestType.UTILITY.value:
                _client, call, method, arguments = generic.decode(frames)
                answer = UtilityOutput(call, result=UtilityResult(await engine.utility(method, *arguments)))
                await outputs.send_multipart(encoder.encode(EngineCoreOutputs(utility_output=answer)))

    receiving = asyncio.create_task(receive())
    while not receiving.done():
        step, _report = await engine.step()
        if step.outputs:
            await outputs.send_multipart(encoder.encode(step))
    receiving.result()


def _ready(facts: EngineFacts) -> EngineCoreReadyResponse:
    return EngineCoreReadyResponse(
        max_model_len=facts.max_model_len,
        num_gpu_blocks=facts.num_blocks,
        block_size=facts.block_size_tokens,
        dp_stats_address=None,
        dtype="float32",
        vllm_version="0.32.0",
        world_size=1,
        data_parallel_size=1,
        tensor_parallel_size=1,
        pipeline_parallel_size=1,
        decode_context_parallel_size=1,
        data_parallel_rank=0,
        max_num_seqs=facts.max_num_seqs,
        max_num_batched_tokens=facts.max_num_batched_tokens,
        instance_id="instant",
        supports_lora=False,
        max_loras=0,
    )


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2]))
