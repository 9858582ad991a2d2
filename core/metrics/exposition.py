"""What Prometheus reads, made with its client library from what was counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.exposition import ALLOWUTF8
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from core.metrics.tally import Counts, Reading, Spread, Spreads


class ReadingCollector(Collector):
    """Asks for the readings at every scrape: nothing has to be kept up to date, and a worker that is gone is gone from here."""

    def __init__(self, look: Callable[[], Iterable[Reading]]) -> None:
        self._look = look

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not ask for numbers that are not there yet."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """One after the other: each is of the moment at which it is taken."""
        return map(family_of, self._look())


class ByModel(Collector):
    """The readings of several models in one process, with a label ``model``. Families of one name are made one: Prometheus' format has
    each only once."""

    def __init__(self, looks: Mapping[str, Callable[[], Iterable[Reading]]]) -> None:
        self._looks = looks

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for model, look in self._looks.items():
            labelled = LabelledCollector(ReadingCollector(look).collect, partial(dict, model=model))
            for family in labelled.collect():
                known = families.setdefault(family.name, family)
                if known is not family:
                    known.samples.extend(family.samples)
        return families.values()


class OneFamily(Collector):
    """One of a scrape's families, to be encoded by itself."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return (self._family,)


class LabelledCollector(Collector):
    """Whatever others tell, with further labels: what is measured inside of a worker does not know whose it is. The labels are asked for
    at every scrape."""

    def __init__(self, look: Callable[[], Iterable[Metric]], labels: Callable[[], Mapping[str, str]]) -> None:
        self._look = look
        self._labels = labels

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        labels = self._labels()
        for family in self._look():
            labelled = Metric(family.name, family.documentation, family.type, family.unit)
            for sample in family.samples:
                labelled.samples.append(sample._replace(labels={**sample.labels, **labels}))
            yield labelled


def encoder(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    """Writes what whoever sent this ``Accept`` can read; and its content type.

    Names are never escaped: all of Baton's and vLLM's are Prometheus' own kind. The client library would escape the colon of vLLM's in the
    format that every Prometheus asks for first, to ``vllm_num_requests_running``, which no dashboard of anybody's knows.
    """
    encode, content_type = choose_encoder(accept)
    return partial(encode, escaping=ALLOWUTF8), content_type  # type: ignore[call-arg]  # all encoders take it; their type does not say so


def family_of(reading: Reading) -> Metric:
    """The reading in the client library's words."""
    entry = reading.entry
    if isinstance(reading, Spreads):
        spreads = HistogramMetricFamily(entry.name, entry.meaning, labels=entry.labels)
        bounds = [*(f"{bound:g}" for bound in entry.bounds), "+Inf"]
        for labels, spread in reading.cells.items():
            spreads.add_metric(labels, _buckets(bounds, spread), spread.sum)
        return spreads
    make = CounterMetricFamily if isinstance(reading, Counts) else GaugeMetricFamily
    family: Metric = make(entry.name.removesuffix("_total"), entry.meaning, labels=entry.labels)
    for labels, cell in reading.cells.items():
        family.add_metric(labels, cell.value)  # type: ignore[attr-defined]  # both have it, `Metric` does not
    return family


def _buckets(bounds: Sequence[str], spread: Spread) -> list[tuple[str, float] | tuple[str, float, Exemplar]]:
    """With the exemplars there are. Only the newer of Prometheus' two formats has a place for them; the client library leaves them out
    of the other."""
    counted = list(zip(bounds, accumulate(map(float, spread.counts)), strict=True))
    if not spread.exemplars:
        return [*counted]
    told = {place: Exemplar({"trace_id": it.trace_id}, it.value, it.unix_s) for place, it in spread.exemplars.items()}
    return [(*bucket, told[place]) if place in told else bucket for place, bucket in enumerate(counted)]
