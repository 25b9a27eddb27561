"""Figures for Prometheus, put together when they are asked for: nothing is kept in a registry between two scrapes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from asyncjobs.service.http.desk import StatsOfStore
from asyncjobs.service.http.route import Desk
from asyncjobs.service.http.tally import BOUNDS, Tally


async def scrape(desk: Desk, rss: int) -> tuple[bytes, str]:
    """The text and its content type."""
    stats = await desk.store.stats()
    families = [*_of_store(stats), *_of_engine(desk, rss), *_of_requests(desk.tally)]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Given(families))
    return generate_latest(registry), CONTENT_TYPE_LATEST


class _Given(Collector):
    """A collector of what has been collected already."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)

    def describe(self) -> Iterator[Metric]:
        return iter(())


def _of_store(stats: StatsOfStore) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("asyncjobs_jobs", "Jobs that the store has, by state.", labels=["state"])
    for state, count in stats.states.items():
        jobs.add_metric([state.name], count)
    yield jobs
    yield GaugeMetricFamily("asyncjobs_paused", "Pauses that hold.", value=len(stats.paused))
    yield GaugeMetricFamily("asyncjobs_database_bytes", "Size of the database.", value=stats.db_bytes)
    yield GaugeMetricFamily("asyncjobs_disk_free_bytes", "What is free on its disk.", value=stats.free)
    commits = getattr(stats, "commits", None)
    if commits is not None:
        yield CounterMetricFamily("asyncjobs_commits", "Transactions that are on disk.", value=commits)


def _of_engine(desk: Desk, rss: int) -> Iterator[Metric]:
    yield GaugeMetricFamily("asyncjobs_places", "Jobs that can run at once.", value=desk.engine.size())
    yield GaugeMetricFamily("asyncjobs_places_busy", "Jobs that run now.", value=desk.engine.busy())
    yield GaugeMetricFamily("asyncjobs_start_time_seconds", "When the service started.", value=desk.service.started_at)
    yield GaugeMetricFamily("asyncjobs_epoch", "How many times the store was opened.", value=desk.service.epoch)
    yield GaugeMetricFamily("process_resident_memory_bytes", "Memory of the service process.", value=rss)
    yield CounterMetricFamily(
        "process_cpu_seconds", "Processor time of the service process.", value=sum(os.times()[:2])
    )


def _of_requests(tally: Tally) -> Iterator[Metric]:
    requests = CounterMetricFamily("asyncjobs_http_requests", "Answers.", labels=["route", "status"])
    for (route, status), count in sorted(tally.requests.items()):
        requests.add_metric([route, str(status)], count)
    yield requests
    seconds = HistogramMetricFamily("asyncjobs_http_seconds", "How long answers took.", labels=["route"])
    bounds = [*(str(bound) for bound in BOUNDS), "+Inf"]
    for route, counts in sorted(tally.seconds.items()):
        buckets = list(zip(bounds, map(float, itertools.accumulate(counts)), strict=True))
        seconds.add_metric([route], buckets, sum_value=tally.sums[route])
    yield seconds
    open_now = GaugeMetricFamily("asyncjobs_http_connections", "Open connections.", labels=["door"])
    for (door, peer), count in tally.connections.items():
        if not peer:
            open_now.add_metric([door], count)
    yield open_now
