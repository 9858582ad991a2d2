"""How many workers each pool is to have: what the configuration says at first, then what people and the scaler have made of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cluster import board
from core.config import BatonConfig
from core.worker import Role


class Wanted(Mapping[Role, int]):
    """Changes are kept on the notice board: they hold for the next controller of ``app``, too."""

    def __init__(self, app: str, config: BatonConfig) -> None:
        self._app = app
        self._counts = {role: config.pool(role).count for role in Role}
        # A scaled pool only begins with its count: what scaling has made of it is kept, whatever that count is now.
        self._configured = {} if config.autoscaling.enabled else self.as_dict()

    def __getitem__(self, role: Role) -> int:
        return self._counts[role]

    def __iter__(self) -> Iterator[Role]:
        return iter(self._counts)

    def __len__(self) -> int:
        return len(self._counts)

    def as_dict(self) -> dict[str, int]:
        """Plain data."""
        return {str(role): count for role, count in self._counts.items()}

    def recall(self) -> None:
        """Goes on with what the controller before this one wanted, unless the configuration's numbers have changed since."""
        if kept := board.kept_wanted(self._app, self._configured):
            self._counts = {role: kept[role] for role in Role}

    def become(self, counts: Mapping[Role, int]) -> None:
        """These, as long as this controller lives and nothing is changed."""
        self._counts = {role: counts[role] for role in Role}

    def change(self, more: Mapping[Role, int]) -> None:
        """So many more of a role, or fewer."""
        for role, number in more.items():
            self._counts[role] = max(0, self._counts[role] + number)
        board.keep_wanted(self._app, self._configured, self.as_dict())
