"""One budget of GPUs over several models: what each may hold, so that all together never hold more, however many want to grow at once.

Every model's scaler claims before each of its plans, and its plan keeps to the grant. A grant is set aside until that model's next claim
says that less is held and less wanted; so it may be acted on meanwhile, whatever the others claim.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

_TINY = 1e-9


class Terms(msgspec.Struct, frozen=True):
    """What the configuration says of one model."""

    least_gpus: float
    """Of its pools' minima; of all its workers, where it is not scaled."""
    step_gpus: float
    """What its smallest worker takes. Shares grow by it, so that no part of a worker is set aside."""
    weight: float = 1.0
    """Its share beside the others', while all want more than there is."""
    claims: bool = True
    """False: nobody scales it, and what it holds is ``least_gpus``."""


class Claim(msgspec.Struct, frozen=True):
    """What a model's controller says before it makes a plan."""

    at_s: float
    """Unix time, by the controller's clock. One that comes behind a later one changes nothing: it was overtaken on its way."""
    held_gpus: float
    """By all its workers: those that are asked for, sleep, or are leaving, too."""
    wanted_gpus: float
    """By its last plan, within the pools' own limits."""


class Grant(msgspec.Struct, frozen=True):
    """What it may hold until it claims again."""

    gpus: float
    budget_gpus: float
    others: dict[str, float] = {}
    """What is set aside for the other models."""

    @property
    def text(self) -> str:
        """For the plan that keeps to it."""
        others = ", ".join(f"{model} {gpus:g}" for model, gpus in self.others.items())
        return f"{self.gpus:g} of the {self.budget_gpus:g} that models share ({others})"


class Entry(msgspec.Struct, frozen=True):
    """One model's line."""

    at_s: float = 0.0
    wanted_gpus: float = 0.0
    reserved_gpus: float = 0.0
    """It holds no more than this, and may come to hold it."""


class Ledger(msgspec.Struct, frozen=True):
    """Who may hold what. The sum of what is reserved never grows beyond the budget."""

    budget_gpus: float
    terms: dict[str, Terms]
    entries: dict[str, Entry]

    @classmethod
    def opened(cls, budget_gpus: float, terms: Mapping[str, Terms], kept: Mapping[str, Entry]) -> Ledger:
        """With what was ``kept`` of models that are still there. What was reserved under another budget stays so until its model claims."""
        entries = {name: kept.get(name, Entry()) if of.claims else Entry(0.0, of.least_gpus, of.least_gpus) for name, of in terms.items()}
        return cls(budget_gpus, dict(terms), entries)

    def claimed(self, model: str, claim: Claim) -> tuple[Ledger, Grant]:
        """What the model may hold now. It may be less than it holds: its scaler then lets workers go, and what they hold stays set aside
        until they are gone."""
        before = self.entries[model]
        others = {name: entry.reserved_gpus for name, entry in self.entries.items() if name != model}
        if claim.at_s <= before.at_s:
            return self, Grant(claim.held_gpus, self.budget_gpus, others)
        entries = {**self.entries, model: Entry(claim.at_s, claim.wanted_gpus, before.reserved_gpus)}
        share = shares(self.budget_gpus, self.terms, {name: entry.wanted_gpus for name, entry in entries.items()})[model]
        free = max(claim.held_gpus, self.budget_gpus - sum(others.values()))
        may_hold = max(0.0, min(share, free))
        entries[model] = Entry(claim.at_s, claim.wanted_gpus, max(may_hold, claim.held_gpus))
        return msgspec.structs.replace(self, entries=entries), Grant(may_hold, self.budget_gpus, others)


def shares(budget_gpus: float, terms: Mapping[str, Terms], wanted: Mapping[str, float]) -> dict[str, float]:
    """What each model is to hold. Minima come first; what is left goes, a worker at a time, to whoever wants more and has the least for its
    weight. So all get what they want where that is not too much, and equal parts by weight of what is short otherwise."""
    got = {name: of.least_gpus for name, of in terms.items()}
    left = budget_gpus - sum(got.values())
    while True:
        steps = {name: min(of.step_gpus, wanted[name] - got[name]) for name, of in terms.items()}
        short = [name for name, step in steps.items() if _TINY < step <= left + _TINY]
        if not short:
            return got
        neediest = min(short, key=lambda name: ((got[name] + steps[name]) / terms[name].weight, name))
        got[neediest] += steps[neediest]
        left -= steps[neediest]
