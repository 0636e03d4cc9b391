"""What the records say, as rules ask for it: scores over data sets, times of one device, single values."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from abpn_lib import datasets
from abpn_lib.results import ANY, Column, Record, select

DATASETS = datasets.SCORED[::-1]
"""The data sets whose mean decides a rule on dB, as far as measured, in the order that a verdict lists them in."""

SEEDS = 3

KINDS = ("measured", "recorded")

Of = Callable[[Mapping[str, float]], float]
"""What a rule takes from the models' PSNR in dB, by their names."""


class Absent(Exception):
    """A record that a rule needs is not there; it makes a claim "not testable here"."""


@dataclass(frozen=True)
class Scores:
    """Mean PSNR in dB of some models on every data set where all of them were measured, for every seed.

    A model that was not trained from a further seed stands in that seed's table with its first one.
    """

    seeds: tuple[Mapping[str, Mapping[str, float]], ...]
    records: tuple[Record, ...]

    @property
    def by_set(self) -> dict[str, dict[str, float]]:
        """The mean over seeds, by data set and model."""
        return {
            dataset: {subject: statistics.fmean(seed[dataset][subject] for seed in self.seeds) for subject in table}
            for dataset, table in self.seeds[0].items()
        }

    @property
    def means(self) -> dict[str, float]:
        """The mean over seeds and data sets, by model."""
        return _mean_over_sets(self.by_set)

    def take(self, of: Of) -> tuple[float, str]:
        """What `of` takes; and in words, with its value on each data set and its spread over seeds."""
        each = ", ".join(f"{name} {of(table):+.2f}" for name, table in self.by_set.items())
        by_seed = [of(_mean_over_sets(seed)) for seed in self.seeds]
        spread = f"; {len(by_seed)} seeds {min(by_seed):+.2f} to {max(by_seed):+.2f}" if len(by_seed) > 1 else ""
        value = of(self.means)
        return value, f"{value:+.2f} dB ({each}{spread})"


def _mean_over_sets(by_set: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    tables = list(by_set.values())
    return {subject: statistics.fmean(table[subject] for table in tables) for subject in tables[0]}


class Evidence:
    """Records by what they measure; of those that measure the same, one of the run at hand comes first."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.records: dict[tuple[str, str], list[Record]] = {}
        # Which of two equal records is taken must not depend on the order that they come in.
        for record in sorted(records, key=lambda record: (record.kind != "measured", record.id)):
            self.records.setdefault((record.quantity, record.subject), []).append(record)
        self.refused: set[str] = set()

    def on(self, npu: Mapping[str, Column]) -> Evidence:
        """The same with the estimates for an NPU, named by columns of its records, in place of times.

        What it leaves to the CPU in part, but for the pixel shuffle that every network ends in, is in `refused`.
        """
        there = Evidence(())
        there.records = {key: found for key, found in self.records.items() if key[0] != "latency"}
        its = [r for found in there.records.values() for r in found if npu.items() <= r.columns.items()]
        refused = [r for r in its if r.quantity == "npu-refused" and r.columns["refused"] != "DEPTH_TO_SPACE"]
        there.refused = {record.subject for record in refused}
        for record in its:
            if record.quantity == "npu-latency" and record.subject not in there.refused:
                there.records.setdefault(("latency", record.subject), []).append(record)
        return there

    def value(self, quantity: str, subject: str) -> Record:
        """The record of a quantity that needs no conditions."""
        if found := self.records.get((quantity, subject)):
            return found[0]
        raise Absent(f"there is no record of {quantity} of {subject}")

    def image(self, quantity: str, subject: str, image: str) -> Record:
        """The record of one image of Urban100, such as "img_004"."""
        for record in select(quantity, self.records.get((quantity, subject), []), dataset="urban100", image=ANY):
            # Image names carry the file's suffix: img_004_SRF_4_HR.
            if f"{record.get('image', '')}_".startswith(f"{image}_"):
                return record
        raise Absent(f"there is no record of {quantity} of {subject} on Urban100's {image}")

    def times(self, *subjects: str) -> dict[str, Record]:
        """The latency records of nodes and networks, all of one kind, device, thread count and kernel path."""
        groups: dict[tuple[Any, ...], dict[str, Record]] = {}
        for subject in subjects:
            for record in self.records.get(("latency", subject), []):
                if record.get("size", "") == size_of(subject) and record.get("channels", 3) == 3:
                    threads, kernels = str(record.get("threads", 1)), record.get("kernels", "xnnpack")
                    key = (record.kind, threads, kernels, record.context.device)
                    groups.setdefault(key, {}).setdefault(subject, record)
        # Measured before recorded, one thread before more, XNNPACK before the built-in kernels.
        for key in sorted(groups, key=lambda key: (key[0] != "measured", key[1] != "1", key[2] != "xnnpack", key)):
            if len(groups[key]) == len(subjects):
                return {subject: groups[key][subject] for subject in subjects}
        names = ", ".join(f"{subject} ({size_of(subject)})" for subject in subjects)
        raise Absent(f"not all of these were timed on one device under equal conditions: {names}")

    def scores(self, *subjects: str, reading: str | None = None, seeds: int = SEEDS) -> Scores:
        """PSNR of all these models, on every data set on which each was measured over the same images.

        With one of the `seeds` alone, models made from one run's weights are compared with each other.
        """
        tables: list[dict[str, dict[str, float]]] = [{} for _ in range(seeds)]
        used: list[Record] = []
        for dataset in DATASETS:
            row = self._row(subjects, dataset, reading)
            for seed, table in enumerate(tables if row else []):
                trained = [self._of_seed(first, seed) for first in row]
                table[dataset] = {first.subject: (hit or first).value for first, hit in zip(row, trained, strict=True)}
                used += filter(None, trained)
        if not used:
            raise Absent(f"there is no data set on which PSNR was measured for all of: {', '.join(subjects)}")
        # The seeds of different networks are independent draws: a seed's table needs no pairing, but all data sets.
        several = any(record.get("seed") for record in used)
        return Scores(tuple(tables if several else tables[:1]), tuple(used))

    def psnr(self, subject: str, dataset: str, reading: str | None = None, *kinds: str) -> Record | None:
        """The PSNR of a model over a data set under the authors' protocol, if there is a record of it."""
        known = [record for record in self.records.get(("psnr", subject), []) if record.kind in (kinds or KINDS)]
        return next(iter(select("psnr", known, dataset=dataset, reading=reading)), None)

    def _row(self, subjects: tuple[str, ...], dataset: str, reading: str | None) -> list[Record]:
        for kinds in (KINDS[:1], KINDS[1:], KINDS):
            row = [hit for subject in subjects if (hit := self.psnr(subject, dataset, reading, *kinds))]
            # A difference between means over different images would say nothing.
            if len(row) == len(subjects) and len({record.count for record in row}) == 1:
                return row
        return []

    def _of_seed(self, first: Record, seed: int) -> Record | None:
        """The record of the same network trained from this seed, if there is one over as many images."""
        if not seed:
            return first
        name = replace(first, columns={**first.columns, "seed": seed}).subject
        hits = (self.psnr(name, str(first.get("dataset")), first.get("reading"), kind) for kind in KINDS)
        return next((hit for hit in hits if hit and hit.count == first.count), None)


def size_of(subject: str) -> str:
    """The size at which the paper times something: nodes at 1080p, networks and LR nodes at 640x360."""
    return "1920x1080" if subject.startswith("node-") and not subject.endswith("-lr") else "640x360"


def milliseconds(records: Iterable[Record]) -> str:
    """Times in words."""
    return ", ".join(f"{record.subject} {record.value:.3g} ms" for record in records)


def clearly_above(a: Record, b: Record) -> bool:
    """Whether a's interval lies above b's; without intervals, whether its value does."""
    return (a.spread or (a.value, a.value))[0] > (b.spread or (b.value, b.value))[1]
