"""Workers that are not there yet, as the controller has told of them. Pure; told the time."""

from __future__ import annotations

from cluster.coming import Coming


class Awaited:
    """One per router. What was told last holds while the controller is away."""

    def __init__(self) -> None:
        self._coming = Coming()
        self._first_at_s: float | None = None
        self.is_told = False

    def told(self, coming: Coming, now_s: float) -> None:
        """By the controller, now."""
        self._coming, self.is_told = coming, True
        self._first_at_s = None if coming.first_in_s is None else now_s + coming.first_in_s

    @property
    def anybody(self) -> bool:
        """Whether somebody is coming, or would be if there were something to do."""
        return self._coming.anybody

    def first_in_s(self, now_s: float) -> float | None:
        """Until the first is ready; 0 once it is overdue. None: nobody knows, or nobody is coming."""
        return None if self._first_at_s is None or not self.anybody else max(0.0, self._first_at_s - now_s)
