"""Simulate a pipeline as queues in a row: what flows, who works, and who waits.

A job is a batch (or an utterance). It passes stations 1..J in order, and each station has some
servers. Three limits decide when job n starts at station j:

    S_j(n) = max( A_j(n),  R_j(n),  S_{j+1}(n - K_j) )        start
    F_j(n) = S_j(n) + X_j(n)                                  finish; X is its service time
    A_{j+1}(n) = max( F_j(n), A_{j+1}(n - 1) )                arrival at the next station

A is its arrival, and R the time at which the first of the station's servers is free. K_j is the
number of places behind station j: a job has one from its start there to its start at the next
station. So K_j - servers jobs may wait ready, and a fast station is held up by a slow one behind
it. That is torch's DataLoader: `workers` servers and `prefetch_factor` * workers places; a batch is
asked for when one is taken, and batches are handed on in order, hence the maximum in A.

The recursion is exact, not an approximation: with J = 1 it is Lindley's (one server) and Kiefer
and Wolfowitz' (several), from which the M/M/1 and M/M/c queues follow. Starts never run backwards
in n, so one pass over the jobs is enough and no list of events is needed.

The last station may take jobs in groups, as GPUs do that average their gradients: a group starts
when all of it has arrived, and ends when its slowest job has, and what `together` adds.
"""

import heapq
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

WARM_UP = 0.2  # share of the jobs that pass before it is measured


class Station(NamedTuple):
    """Servers that do one part of the work."""

    name: str
    mean: float  # seconds of a job
    sd: float = 0.0  # seconds; gamma distributed: 0 is fixed, the mean is exponential
    servers: int = 1
    places: int | None = None  # jobs from their start here to that at the next station; None: any
    group: int = 1  # jobs that start and end together
    together: Callable[[float], float] = lambda slowest: slowest  # seconds of a group, of its jobs
    hold_every: int = 0  # groups between two holds, as for a checkpoint; 0 for none
    hold: float = 0.0  # seconds of a hold


class Flow(NamedTuple):
    """What a simulation found, after the warm-up."""

    per_second: float  # jobs
    busy: dict[str, float]  # share of its servers' time in which a station works
    wait: dict[str, float]  # mean seconds between arrival and start

    @property
    def bottleneck(self) -> str:
        """The station that works most."""
        return max(self.busy, key=lambda name: self.busy[name])


def simulate(
    stations: Sequence[Station], n: int, seed: int = 0, arrivals: NDArray | None = None
) -> Flow:
    """Let jobs flow through stations.

    Args:
        stations: In order. Places of the last are not used; only the last may have groups.
        n: Number of jobs.
        seed: Seed of the service times.
        arrivals: Times at which jobs come: (n,), rising; None for jobs that all wait at the start.

    Raises:
        ValueError: A group is not at the end, or cannot come together because places are too few.
    """
    _check(stations)
    n -= n % stations[-1].group
    rng = np.random.default_rng(seed)
    service = [_draw(station, n, rng) for station in stations]
    arrived = np.zeros((len(stations) + 1, n))  # the last row: finished
    if arrivals is not None:
        arrived[0] = arrivals[:n]
    starts = np.zeros((len(stations), n))
    free = [[0.0] * station.servers for station in stations]
    last = len(stations) - 1
    for i in range(n):
        for j, station in enumerate(stations[:-1]):
            start = max(arrived[j, i], free[j][0])
            if station.places is not None and i >= station.places:
                start = max(start, starts[j + 1, i - station.places])
            heapq.heapreplace(free[j], start + service[j][i])
            starts[j, i] = start
            arrived[j + 1, i] = max(start + service[j][i], arrived[j + 1, i - 1] if i else 0.0)
        if (i + 1) % stations[-1].group == 0:
            _serve_group(stations[-1], i, free[last], service[last], starts[last], arrived[last:])
    return _flow(stations, service, starts, arrived)


def _serve_group(
    station: Station,
    i: int,
    free: list[float],
    service: NDArray,
    starts: NDArray,
    arrived: NDArray,
) -> None:
    """Start and finish the group that ends with job i; its service times become what it took."""
    jobs = slice(i + 1 - station.group, i + 1)
    start = max(float(arrived[0, jobs].max()), free[0])
    seconds = station.together(float(service[jobs].max()))
    if station.hold_every and (i + 1) // station.group % station.hold_every == 0:
        seconds += station.hold
    heapq.heapreplace(free, start + seconds)
    starts[jobs], service[jobs], arrived[1, jobs] = start, seconds, start + seconds


def _check(stations: Sequence[Station]) -> None:
    last = stations[-1]
    for station in stations[:-1]:
        if station.group != 1:
            raise ValueError(f"only the last station may have groups, not {station.name!r}")
        if station.places is not None and station.places < max(station.servers, last.group):
            needed = f"{station.servers} servers and groups of {last.group}"
            raise ValueError(
                f"{station.places} places of {station.name!r} are too few for {needed}"
            )


def _draw(station: Station, n: int, rng: np.random.Generator) -> NDArray:
    """Return the service times of n jobs: (n,) seconds."""
    if station.sd == 0 or station.mean == 0:
        return np.full(n, station.mean)
    shape = (station.mean / station.sd) ** 2
    return rng.gamma(shape, station.mean / shape, n)


def _flow(
    stations: Sequence[Station],
    service: Sequence[NDArray],
    starts: NDArray,
    arrived: NDArray,
) -> Flow:
    n = starts.shape[1]
    group = stations[-1].group
    first = int(WARM_UP * n) // group * group
    ends = np.sort(arrived[-1])
    seconds = ends[-1] - ends[first - 1] if first else ends[-1]
    per_second = (n - first) / seconds
    busy, wait = {}, {}
    for j, station in enumerate(stations):
        mean = service[j][first:].mean() / station.group  # of a group's jobs each has the whole
        busy[station.name] = float(mean * per_second / station.servers)
        wait[station.name] = float((starts[j] - arrived[j])[first:].mean())
    return Flow(float(per_second), busy, wait)
