"""Episodes of a ParallelEnv that can be come back to: where each copy stands, and the environment it was left in.

A `Moment` says which episode (copy seed, number) and which actions led here; a `Lease` is the right to move one
environment of a crew. A moment whose environment has moved on is reached again in another one by replay, and refused
with a reason when the replay sees something else than was recorded.
"""

import weakref
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .crew import Crew, Job
from .layout import Layout
from .live import Rows
from .randomness import mix_seed


class Moment(NamedTuple):
    """Where one copy stands; enough to come back to it."""

    seed: int
    episode: int
    step: int
    actions: list[list[int]]
    """Joint actions of the episode; this moment's are the first `step` of them (the list may grow behind it)."""
    rows: Rows
    row: int
    """What is seen: row `row` of `rows`."""
    terminated: bool
    truncated: bool

    @property
    def view(self) -> tuple[np.ndarray, ...]:
        """obs, state, available, alive."""
        return self.rows.view_of(self.row)


class Lease:
    """The right to move the environment in one slot; it goes back to the pool when no handle holds it any more."""

    __slots__ = ("__weakref__", "moment", "slot")

    def __init__(self, crew: Crew, slot: int):
        self.slot = slot
        self.moment: Moment | None = None
        """Where the environment stands now, None while it is moving or after it failed."""
        weakref.finalize(self, crew.pool(slot).append, slot).atexit = False


class Episodes:
    """Starts episodes in a crew's environments, moves them, and comes back to earlier moments.

    `copies` are the numbers of the copies concerned: they say how the work is spread, and who it was when something fails.
    """

    def __init__(self, crew: Crew, layout: Layout):
        self.crew, self.layout = crew, layout

    def leases(self, copies: Sequence[int]) -> list[Lease]:
        """The right to move an environment, for each copy."""
        return [Lease(self.crew, slot) for slot in self.crew.take(copies)]

    def stands(self, lease: Lease, moment: Moment) -> bool:
        """Whether the environment is where `moment` was recorded."""
        return lease.moment is moment and self.crew.holds(lease.slot)

    def start(self, leases: Sequence[Lease], episodes: Sequence[tuple[int, int]], rows: Rows, copies: Sequence[int]) -> list[Moment]:
        """Start an episode (copy seed, number) in each lease's environment; row k is the k-th one's."""
        jobs = [Job(lease.slot, mix_seed(*episode), []) for lease, episode in zip(leases, episodes, strict=True)]
        moments = [Moment(*episode, 0, [], rows, k, False, False) for k, episode in enumerate(episodes)]
        self._run(leases, jobs, rows, range(len(jobs)), moments, copies)
        for lease, moment in zip(leases, moments, strict=True):
            lease.moment = moment
        return moments

    def move(self, leases: Sequence[Lease], joints: Sequence[list[int]], rows: Rows, copies: Sequence[int]) -> list[Moment]:
        """One joint action in each lease's environment; row `copies[k]` is the k-th one's."""
        before = [standing(lease) for lease in leases]
        jobs = [Job(lease.slot, None, [joint]) for lease, joint in zip(leases, joints, strict=True)]
        self._run(leases, jobs, rows, copies, before, copies)
        terminated, truncated = rows.terminated.tolist(), rows.truncated.tolist()
        for lease, moment, joint, i in zip(leases, before, joints, copies, strict=True):
            lease.moment = went_on(moment, joint, rows, i, terminated[i], truncated[i])
        return [standing(lease) for lease in leases]

    def restore(self, moments: Sequence[Moment], copies: Sequence[int]) -> list[Lease]:
        """Leases on other environments, brought to these moments by replay; ValueError where a replay sees something else."""
        leases, rows = self.leases(copies), Rows(self.layout, len(moments))
        jobs = [
            Job(lease.slot, mix_seed(moment.seed, moment.episode), moment.actions[: moment.step])
            for lease, moment in zip(leases, moments, strict=True)
        ]
        self._run(leases, jobs, rows, range(len(jobs)), moments, copies)
        for k, (lease, moment) in enumerate(zip(leases, moments, strict=True)):
            self._compare(moment, rows, k)
            lease.moment = _reached(moment, rows, k, jobs[k].joints)
        return leases

    def follow(self, lease: Lease, moment: Moment, copy: int) -> bool:
        """Play the lease's environment on to `moment`; False, and nothing done, where that is no later moment of its episode."""
        here = lease.moment if self.crew.holds(lease.slot) else None
        if here is None or (here.seed, here.episode) != (moment.seed, moment.episode) or here.step > moment.step:
            return False
        if here.actions[: here.step] != moment.actions[: here.step]:
            return False
        joints = moment.actions[here.step : moment.step]
        if joints:
            rows = Rows(self.layout, 1)
            self._run([lease], [Job(lease.slot, None, joints)], rows, [0], [here], [copy])
            self._compare(moment, rows, 0)
            lease.moment = _reached(moment, rows, 0, moment.actions[: moment.step])
        return True

    def _run(
        self, leases: Sequence[Lease], jobs: list[Job], rows: Rows, where: Sequence[int], moments: Sequence[Moment], copies: Sequence[int]
    ) -> None:
        for lease in leases:
            lease.moment = None

        self.crew.run(jobs, rows, where, told=lambda k: describe(copies[k], moments[k]))

    def _compare(self, moment: Moment, rows: Rows, k: int) -> None:
        """ValueError where a replay, seen in row `k`, is not what was recorded."""
        replay = f"replaying episode {moment.episode} of copy seed {moment.seed} to step {moment.step}"
        refusal = f"{self.layout.name} cannot be copied exactly: {replay},"
        if rows.step[k] < moment.step:
            raise ValueError(f"{refusal} the episode ends at step {rows.step[k]}")
        for what, recorded, seen in zip(
            ("observations", "state", "available actions", "living agents"), moment.view, rows.view_of(k), strict=True
        ):
            if not np.array_equal(recorded, seen):
                raise ValueError(f"{refusal} the {what} differ (by up to {np.abs(seen.astype(float) - recorded).max():g})")
        if (bool(rows.terminated[k]), bool(rows.truncated[k])) != (moment.terminated, moment.truncated):
            raise ValueError(f"{refusal} it ends differently")


def describe(copy: int, moment: Moment) -> str:
    """Who stands there, for messages."""
    seed = mix_seed(moment.seed, moment.episode)
    return f"copy {copy} (seed {moment.seed}, episode {moment.episode}, reset(seed={seed}), env step {moment.step})"


def standing(lease: Lease) -> Moment:
    """Where the lease's environment stands."""
    assert lease.moment is not None
    return lease.moment


def went_on(before: Moment, joint: list[int], rows: Rows, k: int, terminated: bool, truncated: bool) -> Moment:
    """The moment after `joint` was played in `before`, seen in row `k`."""
    seed, episode, step, actions, *_ = before
    # Only a lease appends to its own list, at its end; handles that stay behind keep reading their first `step` entries.
    assert len(actions) == step
    actions.append(joint)
    return Moment(seed, episode, step + 1, actions, rows, k, terminated, truncated)


def _reached(before: Moment, rows: Rows, k: int, actions: list[list[int]]) -> Moment:
    """The moment of the same episode that row `k` shows."""
    ended = bool(rows.terminated[k]), bool(rows.truncated[k])
    return Moment(before.seed, before.episode, int(rows.step[k]), actions, rows, k, *ended)
