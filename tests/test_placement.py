"""Which trial starts next, and where: cards are shared evenly, long chains go to fast ones, none idles needlessly."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean

import pytest

from cass_tune.placement import CPU, Busy, Node, Place, Placement, shared
from tests.grids import paper_grid
from tests.schedules import Grid, best, bound, play


def node(name: str = "a", cards: int = 1, cpus: float = 8, kind: str = "X") -> Node:
    return Node(name=name, kind=kind if cards else CPU, cards=cards, cpus=cpus)


def fill(placement: Placement[int], nodes: Sequence[Node], jobs: int, busy: Sequence[Busy] = ()) -> list[Place]:
    """Return the places of so many trials that start one after the other, as far as there are any."""
    found: list[Place] = []
    for job in range(jobs):
        chosen = placement.choose([job], nodes, [*busy, *(Busy(place=place) for place in found)])
        if chosen is None:
            break
        found.append(chosen[1])
    return found


def of(share: float, cpus: float = 1) -> Placement[int]:
    return Placement(lambda job, kind: None if kind == CPU and share else shared(share), cpus)


def trials_by_card(places: Sequence[Place]) -> list[int]:
    return sorted(Counter((place.group.node, place.group.number) for place in places).values())


class TestSharing:
    """Parts of cards."""

    def test_quarters_go_to_idle_cards_first(self) -> None:
        assert trials_by_card(fill(of(0.25), [node(cards=4)], 4)) == [1, 1, 1, 1]
        assert trials_by_card(fill(of(0.25), [node("a", 2), node("b", 2)], 4)) == [1, 1, 1, 1]

    def test_more_trials_than_cards_are_spread_evenly(self) -> None:
        assert trials_by_card(fill(of(0.25), [node(cards=4, cpus=16)], 6)) == [1, 1, 2, 2]

    @pytest.mark.parametrize(("share", "trials"), [(0.25, 8), (1 / 3, 6), (0.3, 6), (0.5, 4), (0.6, 2), (1, 2)])
    def test_as_many_as_fit(self, share: float, trials: int) -> None:
        assert len(fill(of(share), [node(cards=2, cpus=64)], 99)) == trials

    def test_a_card_that_has_become_idle_comes_before_one_that_is_shared(self) -> None:
        """Whichever trial has left: Ray would put the next one on the card that has least room."""
        two, other = fill(of(0.5), [node(cards=2)], 2)
        assert trials_by_card([two, other]) == [1, 1]
        third = fill(of(0.5), [node(cards=2)], 1, [Busy(place=two)])
        assert third[0].group.number == other.group.number

    def test_a_whole_card_is_no_shared_one(self) -> None:
        mixed = Placement[int](lambda job, kind: 1.0 if job == 0 else 0.25, 1)
        found = fill(mixed, [node(cards=2, cpus=16)], 99)
        assert trials_by_card(found) == [1, 4]
        assert [place.gpus for place in found if place.group == found[0].group] == [1.0]

    def test_cores_are_shared_out_evenly_where_there_are_few(self) -> None:
        found = fill(of(0.25), [node(cards=4, cpus=7)], 99)
        assert trials_by_card(found) == [1, 2, 2, 2]
        assert sum({place.group: place.group.cpus for place in found}.values()) <= 7

    def test_fewer_cores_than_cards(self) -> None:
        assert len(fill(of(0.25), [node(cards=4, cpus=2)], 99)) == 2
        assert fill(of(1, cpus=4), [node(cards=4, cpus=2)], 99) == []

    def test_cores_alone(self) -> None:
        places = fill(of(0, cpus=2), [node("a", 0, 4), node("b", 1, 5)], 99)
        assert Counter(place.group.node for place in places) == {"a": 2, "b": 2}
        assert {place.group.gpus for place in places} == {0}
        assert [place.group.node for place in places[:2]] in (["a", "b"], ["b", "a"]), "spread over the machines"


class TestKinds:
    """Cards of different kinds."""

    def test_a_trial_never_goes_where_it_does_not_fit(self) -> None:
        placement = Placement[str](lambda job, kind: None if (job, kind) == ("large", "small") else 1.0, 1)
        nodes = [node("a", kind="small"), node("b", kind="big")]
        taken = placement.choose(["large", "any"], nodes, [])
        assert taken is not None and (taken[0], taken[1].group.node) == ("large", "b")
        busy = [Busy(place=taken[1])]
        again = placement.choose(["large", "any"], nodes, busy)
        assert again is not None and (again[0], again[1].group.node) == ("any", "a")

    def test_the_first_in_line_gets_the_fastest_card(self) -> None:
        seconds = {"fast": 10.0, "slow": 30.0}
        placement = Placement[str](lambda job, kind: 1.0, 1, lambda job, kind: seconds[kind])
        nodes = [node("a", kind="slow"), node("b", kind="fast")]
        chosen = placement.choose(["long", "short"], nodes, [])
        assert chosen is not None and (chosen[0], chosen[1].group.kind) == ("long", "fast")

    @pytest.mark.parametrize(("left_s", "started"), [(5.0, "short"), (25.0, "long"), (None, "long")])
    def test_it_waits_for_a_faster_card_only_if_it_will_have_ended_earlier(
        self, left_s: float | None, started: str
    ) -> None:
        """On the slow one the long trial takes 30 s, on the fast one 10 s: it lets the short one go first, or not."""
        times = {("long", "fast"): 10.0, ("long", "slow"): 30.0, ("short", "fast"): 1.0, ("short", "slow"): 3.0}
        placement = Placement[str](lambda job, kind: 1.0, 1, lambda job, kind: times[job, kind])
        nodes = [node("a", kind="slow"), node("b", kind="fast")]
        (fast,) = fill(of(1.0), [nodes[1]], 1)
        chosen = placement.choose(["long", "short"], nodes, [Busy(place=fast, left_s=left_s)])
        assert chosen is not None and (chosen[0], chosen[1].group.kind) == (started, "slow")

    def test_what_needs_the_work_of_one_that_waits_does_not_start_before(self) -> None:
        """Otherwise a short trial would compute on a slow card what the long one was to compute on the fast one."""
        times = {"fast": 10.0, "slow": 30.0}
        placement = Placement[str](lambda job, kind: 1.0, 1, lambda job, kind: times[kind])
        nodes = [node("a", kind="slow"), node("b", kind="fast")]
        (fast,) = fill(of(1.0), [nodes[1]], 1)
        asked: dict[str, list[str]] = {}

        def is_ready(job: str, ahead: list[str]) -> bool:
            asked[job] = list(ahead)
            return "first" not in ahead

        busy = [Busy(place=fast, left_s=5.0)]
        assert placement.choose(["first", "second"], nodes, busy, is_ready) is None
        assert asked == {"first": [], "second": ["first"]}

    def test_equal_cards_never_idle_while_a_trial_waits(self) -> None:
        placement = Placement[str](lambda job, kind: 1.0, 1, lambda job, kind: 10.0)
        nodes = [node("a"), node("b")]
        (first,) = fill(of(1.0), [nodes[0]], 1)
        chosen = placement.choose(["one"], nodes, [Busy(place=first, left_s=0.0)])
        assert chosen is not None and chosen[1].group.node == "b"

    def test_without_known_times_nobody_waits(self) -> None:
        nodes = [node("a", kind="slow"), node("b", kind="fast")]
        assert len(fill(of(1.0), nodes, 9)) == 2

    def test_readiness_is_asked_only_where_there_is_a_place(self) -> None:
        asked: list[int] = []
        full = fill(of(1.0), [node()], 1)
        busy = [Busy(place=place) for place in full]
        assert of(1.0).choose(range(3), [node()], busy, lambda job, ahead: not asked.append(job)) is None
        assert asked == []
        chosen = of(1.0).choose(range(3), [node()], [], lambda job, ahead: asked.append(job) or job == 1)
        assert chosen is not None and chosen[0] == 1
        assert asked == [0, 1]


def list_schedule(lengths: Sequence[float], speeds: Mapping[str, float]) -> float:
    """Return the makespan of independent trials, the longest first, one card of each kind."""
    nodes = [node(kind, kind=kind) for kind in speeds]
    placement = Placement[int](lambda job, kind: 1.0, 1, lambda job, kind: lengths[job] / speeds[kind])
    waiting = sorted(range(len(lengths)), key=lambda job: -lengths[job])
    ends: dict[Place, float] = {}
    now, last = 0.0, 0.0
    while waiting:
        busy = [Busy(place=place, left_s=end - now) for place, end in ends.items()]
        chosen = placement.choose(waiting, nodes, busy)
        if chosen:
            job, place = chosen
            waiting.remove(job)
            ends[place] = now + lengths[job] / speeds[place.group.kind]
            last = max(last, ends[place])
        else:
            now = min(ends.values())
            ends = {place: end for place, end in ends.items() if end > now}
    return last


class TestMachinesThatLack:
    """What is asked for when trials wait."""

    def groups(self, share: float, jobs: int, nodes: Sequence[Node], most: int = 4) -> list[tuple[float, float]]:
        found = of(share).lacking(range(jobs), nodes, most=most)
        assert {group.node for group in found}.isdisjoint(each.name for each in nodes)
        return sorted((group.gpus, group.cpus) for group in found)

    def test_a_card_for_each_trial(self) -> None:
        assert self.groups(1, 3, [node()]) == [(1, 1)] * 3

    def test_no_more_than_so_many_machines_of_a_kind(self) -> None:
        assert self.groups(1, 30, [node(cards=2)], most=3) == [(1, 1)] * 6
        assert len(self.groups(1, 30, [node(), node("b"), node("c", kind="Y")], most=3)) == 6

    def test_trials_that_share_a_card_ask_for_it_once(self) -> None:
        assert self.groups(0.25, 6, [node(cpus=4)], most=1) == [(1, 4)]

    def test_cores_alone(self) -> None:
        assert self.groups(0, 3, [node(cards=0, cpus=2)], most=1) == [(0, 1)] * 2

    def test_nothing_where_none_fits(self) -> None:
        assert self.groups(2, 3, [node()]) == [] and self.groups(1, 3, []) == []

    def test_trials_that_cannot_start_yet_ask_for_nothing(self) -> None:
        one_at_a_time: list[list[int]] = []

        def is_ready(job: int, ahead: list[int]) -> bool:
            one_at_a_time.append(ahead)
            return not ahead

        assert len(of(1).lacking([1, 2, 3], [node()], is_ready)) == 1
        assert [1] in one_at_a_time, "asked as if the first one ran"


def test_small_cases_against_every_assignment() -> None:
    rng = random.Random(0)
    ratios = []
    for _ in range(60):
        lengths = [rng.uniform(1, 10) for _ in range(rng.randint(2, 7))]
        speeds = {kind: rng.choice([1.0, 1.0, 2.0, 3.0]) for kind in ("x", "y", "z")}
        ratios.append(list_schedule(lengths, speeds) / best(lengths, list(speeds.values())))
    assert min(ratios) >= 1 - 1e-9
    assert max(ratios) < 1.25
    assert fmean(ratios) < 1.05


@pytest.mark.parametrize(
    ("cards", "speeds"),
    [
        ({"X": 1}, {"X": 1.0}),
        ({"X": 3}, {"X": 1.0}),
        ({"X": 2, "Y": 2}, {"X": 1.0, "Y": 2.0}),
        ({"X": 2, "Y": 2}, {"X": 1.0, "Y": 3.0}),
        ({"X": 4, "Y": 1}, {"X": 1.0, "Y": 2.5}),
        ({"X": 4, "Y": 4}, {"X": 1.0, "Y": 2.0}),
    ],
)
@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_the_grid_is_within_five_percent_of_the_bound(
    cards: Mapping[str, int], speeds: Mapping[str, float], schedule: str
) -> None:
    items = paper_grid(controls=False, schedule=schedule)
    assert len(items) == 27
    grid = Grid(items, speeds)
    nodes = [node(kind, number, 64, kind) for kind, number in cards.items()]
    makespan, runs = play(grid, nodes)
    assert len(runs) == 27
    least = bound(grid, runs, [speeds[kind] for kind, number in cards.items() for _ in range(number)])
    most = {"cosine": 1.05, "wsd": 1.06}[schedule]  # the bound knows nothing of the forks of a trunk
    assert 1 - 1e-9 <= makespan / least <= most


def test_a_table_of_one_seed_is_complete_early_and_the_last_chain_late_no_more_than_needed() -> None:
    items = paper_grid(controls=False, seeds=(0, 1, 2))
    grid = Grid(items, {"X": 1.0})
    makespan, runs = play(grid, [node(cards=4, cpus=64)])
    ends = {seed: max(run.end_s for run in runs if run.item.trial.seed == seed) for seed in (0, 1, 2)}
    assert ends[0] < 0.6 * makespan and ends[1] < ends[2]
    assert makespan / bound(grid, runs, [1.0] * 4) <= 1.05
