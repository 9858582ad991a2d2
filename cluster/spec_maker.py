"""Makes the specs of new workers, so that they go with those that are there."""

from __future__ import annotations

import secrets
import time

from cluster.channel import ChannelKeys
from cluster.spec import WorkerSpec, spec_hash
from core.config import BatonConfig
from core.ids import Epoch, WorkerId
from core.worker import Role


class SpecMaker:
    """Epochs only grow, and all workers of an application have the same keys of its routers. ``hashes`` are today's."""

    def __init__(self, app: str, config: BatonConfig) -> None:
        self.hashes = {role: spec_hash(config, role) for role in Role}
        self.router_keys = ChannelKeys.make()
        self._app = app
        self._config = config
        self._last_epoch = int(time.time())

    def found(self, spec: WorkerSpec) -> None:
        """A worker was there before: new ones go on from it."""
        self.router_keys = spec.router_keys
        self._last_epoch = max(self._last_epoch, spec.epoch)

    def make(self, role: Role, restarts: int) -> WorkerSpec:
        """Another one each time."""
        self._last_epoch += 1
        return WorkerSpec(
            app=self._app,
            worker=WorkerId(f"{role}-{secrets.token_hex(3)}"),
            role=role,
            epoch=Epoch(self._last_epoch),
            spec_hash=self.hashes[role],
            config=self._config.model_dump(mode="json"),
            worker_keys=ChannelKeys.make(),
            router_keys=self.router_keys,
            restarts=restarts,
        )
