"""Simulated queues agree with queueing theory."""

from math import factorial

import numpy as np
import pytest

from benchmarks.queueing import Station, simulate

N = 60_000


def poisson(rate, n=N):
    return np.random.default_rng(1).exponential(1 / rate, n).cumsum()


def erlang_c_wait(rate, mean, servers):
    """Return the mean wait of an M/M/c queue, by Erlang's formula."""
    load = rate * mean
    last = load**servers / factorial(servers) * servers / (servers - load)
    wait = last / (sum(load**k / factorial(k) for k in range(servers)) + last)
    return wait * mean / (servers - load)


@pytest.mark.parametrize(("load", "servers"), [(0.5, 1), (0.8, 1), (1.6, 2), (5.5, 8)])
def test_waits_are_those_of_erlang_c(load, servers):
    if servers == 1:  # by hand, for the formula above
        assert erlang_c_wait(load, 1.0, 1) == pytest.approx(load / (1 - load))
    flow = simulate([Station("s", 1.0, 1.0, servers)], N, arrivals=poisson(load))
    assert flow.wait["s"] == pytest.approx(erlang_c_wait(load, 1.0, servers), rel=0.1)
    assert flow.busy["s"] == pytest.approx(load / servers, rel=0.01)


@pytest.mark.parametrize("sd", [0.0, 0.5])
def test_waits_at_one_server_are_those_of_pollaczek_and_khinchine(sd):
    rate = 0.7
    flow = simulate([Station("s", 1.0, sd)], N, arrivals=poisson(rate))
    assert flow.wait["s"] == pytest.approx(rate * (1 + sd**2) / 2 / (1 - rate), rel=0.05)


@pytest.mark.parametrize("places", [1, 2, 5])
@pytest.mark.parametrize("mean", [1.0, 0.5])
def test_two_exponential_servers_with_places_between_are_a_birth_and_death_process(places, mean):
    # between 0 and places + 1 jobs are at the second server; the first stops at the most of them
    ratio = 1.0 / mean
    states = ratio ** np.arange(places + 2)
    expected = 1 - states[0] / states.sum()  # the second server works unless nothing is there
    flow = simulate([Station("a", mean, mean, 1, places), Station("b", 1.0, 1.0)], N)
    assert flow.per_second == pytest.approx(expected, rel=0.01)
    assert flow.busy["b"] == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    ("means", "servers", "expected", "slowest"),
    [
        ((2.0, 0.5, 1.0), (1, 1, 1), 0.5, "0"),
        ((2.0, 0.5, 1.0), (4, 1, 1), 1.0, "2"),
        ((3.0, 0.25, 0.1), (2, 1, 1), 2 / 3, "0"),
        ((1.0, 0.9, 0.2), (8, 1, 1), 1 / 0.9, "1"),
    ],
)
def test_fixed_times_flow_as_fast_as_the_slowest_station(means, servers, expected, slowest):
    stations = [
        Station(str(j), mean, 0.0, c, 2 * c)
        for j, (mean, c) in enumerate(zip(means, servers, strict=True))
    ]
    flow = simulate(stations, 2000)
    assert flow.per_second == pytest.approx(expected, rel=1e-3)
    assert flow.bottleneck == slowest
    assert flow.busy[slowest] == pytest.approx(1.0, rel=1e-3)


def test_three_jobs_by_hand():
    # a: 1 s each; b: 2 s each; one place: a starts a job when b has started the one before
    # a 0-1, b 1-3; a 1-2, waits, b 3-5; a 3-4, waits, b 5-7
    flow = simulate([Station("a", 1.0, places=1), Station("b", 2.0)], 3)
    assert flow.per_second == pytest.approx(3 / 7)
    assert flow.wait["b"] == pytest.approx((0 + 1 + 1) / 3)
    assert flow.wait["a"] == pytest.approx((0 + 1 + 3) / 3)


def test_results_are_handed_on_in_order():
    many = [Station("a", 1.0, 1.0, servers=64), Station("b", 0.01, servers=64)]
    flow = simulate(many, 64, seed=3)  # the slowest comes late
    ready = np.random.default_rng(3).gamma(1.0, 1.0, 64)
    ends = np.maximum.accumulate(ready) + 0.01  # each waits for the slowest before it
    assert flow.per_second == pytest.approx((64 - 12) / (ends[63] - ends[11]))


def test_a_group_waits_for_its_slowest_and_for_what_it_does_together():
    alone = Station("step", 2.0)
    four = Station("step", 2.0, group=4, together=lambda slowest: max(slowest, 3.0))
    assert simulate([alone], 100).per_second == pytest.approx(1 / 2)
    assert simulate([four], 100).per_second == pytest.approx(4 / 3)
    spread = Station("step", 1.0, 1.0, group=4)  # mean of the largest of four: 1 + 1/2 + 1/3 + 1/4
    assert simulate([spread], 20_000).per_second == pytest.approx(4 * 12 / 25, rel=0.02)
    assert simulate([spread], 20_000).busy["step"] == pytest.approx(1.0)


def test_a_hold_comes_once_in_so_many_groups():
    held = Station("step", 1.0, group=2, hold_every=5, hold=2.5)
    assert simulate([held], 1000).per_second == pytest.approx(2 * 5 / 7.5)


def test_what_can_never_come_together_is_refused():
    with pytest.raises(ValueError, match="only the last station"):
        simulate([Station("a", 1.0, group=2), Station("b", 1.0)], 10)
    with pytest.raises(ValueError, match="3 places of 'a' are too few for 1 servers and groups of"):
        simulate([Station("a", 1.0, places=3), Station("b", 1.0, group=4)], 10)
