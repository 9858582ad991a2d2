"""All workers that can be reached, each looked at only when it is asked for: of a thousand, a decision asks for a hundred."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from core.ids import WorkerId
from core.worker import Role
from router.plan import View, WorkerView

if TYPE_CHECKING:
    from router.link import WorkerLink


class Sight(Mapping[WorkerId, WorkerView]):
    """A ``router.plan.View``, valid for this moment only."""

    __slots__ = ("_links", "_look", "_seen")

    def __init__(self, links: Mapping[WorkerId, WorkerLink], look: Callable[[WorkerLink], WorkerView]) -> None:
        """``links`` are those that are up."""
        self._links = links
        self._look = look
        self._seen: dict[WorkerId, WorkerView] = {}

    def pool(self, role: Role) -> list[WorkerId]:
        """Who has that role. Nobody is looked at for it."""
        return [worker for worker, link in self._links.items() if link.card.role is role]

    def __getitem__(self, worker: WorkerId) -> WorkerView:
        seen = self._seen.get(worker)
        if seen is None:
            self._seen[worker] = seen = self._look(self._links[worker])
        return seen

    def __contains__(self, worker: object) -> bool:
        return worker in self._links

    def __iter__(self) -> Iterator[WorkerId]:
        return iter(self._links)

    def __len__(self) -> int:
        return len(self._links)


def pool_of(view: View, role: Role) -> list[WorkerId]:
    """Who has that role, in the view's order."""
    return view.pool(role) if isinstance(view, Sight) else [worker for worker, seen in view.items() if seen.card.role is role]
