"""How KV gets from one simulated worker to another: pulls, and the leases they end."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from core.ids import LegId, WorkerId
from engine.sim_request import RemotePrompt
from engine.sim_step import Pull
from engine.sim_virtual import VirtualEngine
from simulation.clock import VirtualClock
from simulation.kv_network import KVNetwork


class Pulls:
    """One worker's side of all of them, as reader and as keeper. ``peers`` is filled when the cluster is put together.

    ``live`` has the worker's engine live until now; it is called before and after everything that is asked of the engine.
    """

    def __init__(
        self,
        worker: WorkerId,
        engine: VirtualEngine,
        clock: VirtualClock,
        network: KVNetwork,
        live: Callable[[], None],
        timeout_s: float = 10.0,
    ) -> None:
        """``timeout_s`` is ``KVTransferConfig.pull_timeout_s``."""
        self.peers: Mapping[WorkerId, Pulls] = {}
        self.gone = False
        """Its worker is dead: it keeps nothing, and nobody answers."""
        self._worker = worker
        self._engine = engine
        self._clock = clock
        self._network = network
        self._live = live
        self._timeout_s = timeout_s

    def begin(self, pull: Pull) -> None:
        """The engine has blocks for it."""
        keeper = self._keeper(pull.remote)
        if not self._reaches(keeper):
            self._clock.later(self._timeout_s, lambda: self._end(pull, keeper))
        elif keeper.keeps(pull.remote.leg):
            self._network.move(keeper._worker, self._worker, pull.transfer_bytes, lambda: self._end(pull, keeper))
        else:
            self._clock.later(0.0, lambda: self._end(pull, keeper))

    def dismiss(self, remote: RemotePrompt | None) -> None:
        """The engine has read it, or will not."""
        if remote is not None:
            keeper = self._keeper(remote)
            self._network.say(lambda: keeper.read(remote.leg))

    def renew_waiting(self) -> None:
        """For those whose turn to be pulled has not come."""
        for remote in self._engine.unpulled():
            self._keeper(remote).keeps(remote.leg)

    def keeps(self, leg: LegId) -> bool:
        """Whether the KV of a leg is kept here; if so, for another lease."""
        return not self.gone and self._engine.renew(leg, self._clock.now())

    def read(self, leg: LegId) -> None:
        """Somebody has what is kept here of a leg, or will not come for it."""
        if self.gone:
            return
        self._live()
        self._engine.release(leg, self._clock.now())
        self._live()

    def _end(self, pull: Pull, keeper: Pulls) -> None:
        """The bytes are here, and are what they should be if they are still kept there; or it is given up."""
        if self.gone:
            return
        self._live()
        if self._reaches(keeper) and keeper.keeps(pull.remote.leg):
            self._engine.pulled(pull.leg, self._clock.now())
            self.dismiss(pull.remote)
        else:
            self._engine.pull_failed(pull.leg, self._clock.now())
        self._live()

    def _reaches(self, keeper: Pulls) -> bool:
        return not keeper.gone and self._network.connects(keeper._worker, self._worker)

    def _keeper(self, remote: RemotePrompt) -> Pulls:
        return self.peers[WorkerId(remote.engine_id)]
