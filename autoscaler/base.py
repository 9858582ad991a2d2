"""What every scaler is: Baton's, and those it is compared with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from autoscaler.plan import Plan
from autoscaler.signals import Signals

State = TypeVar("State")


class Scaler(ABC, Generic[State]):
    """``plan`` is asked every few seconds. All it remembers is in the state: a frozen msgspec struct, to be kept by whoever asks."""

    name: str

    @abstractmethod
    def first(self) -> State:
        """The state of a scaler that has seen nothing."""

    @abstractmethod
    def plan(self, signals: Signals, state: State, now_s: float) -> tuple[Plan, State]:
        """What is to be done now, and what to remember. ``now_s`` is Unix time.

        Changes nothing. The plan is to be carried out before it is asked again, so far that ``signals`` show it: workers that
        were asked for as starting, those that are to go as draining, new roles as roles. In a dry run that is not so, and the next
        plan says the same again.
        """
