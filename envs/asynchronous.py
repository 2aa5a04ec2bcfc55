"""Copies of a Python environment stepped as they get ready: `send` joint actions for some, `recv` those that have moved.

With worker processes the caller acts on the copies that are ready while the others still compute, as in EnvPool
(arXiv:2206.10558). A copy's episode comes from its seed alone, so which copy is ready first changes when a number is
seen, and never the number. A copy that ends starts its next episode at once and is ready when that has begun.

    stepping = Asynchronous(env, state)
    stepping.send(torch.arange(8), action)
    while ...:
        rows, step, view = stepping.recv(4)       # at least 4 of them
        stepping.send(rows, act(view))
    stepping.recv(stepping.out)
    state = stepping.state()
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from .base import Step, View
from .crew import Job, Ticket
from .episodes import Lease, Moment, describe, standing, went_on
from .live import Rows
from .pettingzoo import PettingZooState, PettingZooTeam, step_of, view_of
from .randomness import mix_seed


@dataclass(slots=True)
class _Copy:
    """One copy: where it stood last, and what it is waited for."""

    moment: Moment
    lease: Lease
    ticket: Ticket | None = None
    reached: Moment | None = None
    """Where its step led; while it is out all the same, its next episode starts."""


class Asynchronous:
    """B copies, some of which are out: they were sent an action and did not come back yet.

    Args:
        team: the task; with workers (`put_to_work`) the copies move side by side, without them one after another in `recv`.
        state: where they stand. The handle stays good.

    What an environment raises, and the death of a worker, is raised by `recv`; after it this object is of no more use, and one
    goes on from an earlier handle.
    """

    def __init__(self, team: PettingZooTeam, state: PettingZooState):
        self._team, self._episodes = team, team.episodes
        moments, leases = state.moments, list(state.leases)
        gone = [i for i, moment in enumerate(moments) if not self._episodes.stands(leases[i], moment)]
        for i, lease in zip(gone, self._episodes.restore([moments[i] for i in gone], gone), strict=True):
            leases[i] = lease
        self._copies = [_Copy(standing(lease), lease) for lease in leases]
        self._layout = team.here.layout
        self._broken = False

    @property
    def out(self) -> int:
        """Copies that were sent an action and did not come back yet."""
        return sum(copy.ticket is not None for copy in self._copies)

    def send(self, rows: Int[Tensor, " some"], action: Int[Tensor, "sent agent"]) -> None:
        """Have the copies `rows` play these joint actions.

        Raises:
            ValueError: no such copy, one that is out or named twice, one that has ended for good, an action that an agent does not have.
        """
        numbers = rows.tolist()
        if self._broken:
            raise ValueError("an environment or its worker has failed: go on from an earlier state")
        if len(action) != len(numbers):
            raise ValueError(f"{len(action)} joint actions for {len(numbers)} copies")
        for position, i in enumerate(numbers):
            if not 0 <= i < len(self._copies):
                raise ValueError(f"there is no copy {i}; there are {len(self._copies)}, from 0")
            if self._copies[i].ticket is not None:
                raise ValueError(f"copy {i} still computes its last step: recv it before it is sent another action")
            if i in numbers[:position]:
                raise ValueError(f"copy {i} is named twice")
            if self._copies[i].moment.terminated or self._copies[i].moment.truncated:
                raise ValueError(f"copy {i} has ended: it was stepped without automatic reset before")
        joints = self._team.check_actions([self._copies[i].moment for i in numbers], action)
        seen = Rows(self._layout, len(numbers))
        for row, (i, joint) in enumerate(zip(numbers, joints, strict=True)):
            self._copies[i].reached = None
            self._submit(i, Job(self._copies[i].lease.slot, None, [joint]), seen, row)

    def recv(self, minimum: int) -> tuple[Int[Tensor, " ready"], Step, View]:
        """The copies that came back, at least `minimum` and in order: what their step brought, and what to act on next.

        Raises:
            ValueError: fewer than `minimum` copies are out, or `minimum` is not at least 1.
        """
        if not 1 <= minimum <= self.out:
            raise ValueError(f"recv({minimum}) while {self.out} copies are out")
        back: list[int] = []
        while len(back) < minimum:
            back += self._take(minimum - len(back))
        back.sort()
        copies = [self._copies[i] for i in back]
        step = step_of(self._seen([copy.reached for copy in copies if copy.reached is not None]))
        if all(copy.moment is copy.reached for copy in copies):
            return torch.tensor(back), step, step.after
        return torch.tensor(back), step, view_of(self._seen([copy.moment for copy in copies]))

    def state(self) -> PettingZooState:
        """A handle to where the copies stand; ValueError while some are out."""
        if self._broken or self.out:
            raise ValueError(f"{self.out} copies are out: recv them first")
        return PettingZooState(tuple(copy.moment for copy in self._copies), tuple(copy.lease for copy in self._copies))

    def _submit(self, i: int, job: Job, rows: Rows, row: int) -> None:
        copy = self._copies[i]
        moment, copy.lease.moment = copy.moment, None
        copy.ticket = self._episodes.crew.submit(job, rows, row, told=lambda: describe(i, moment))

    def _take(self, wanted: int) -> list[int]:
        """The copies that are back, after some jobs are done; those whose episode has ended are sent into their next one."""
        out = {copy.ticket: i for i, copy in enumerate(self._copies) if copy.ticket is not None}
        self._broken = True
        try:
            done = self._episodes.crew.wait(list(out), wanted)
            self._broken = False
        finally:
            if self._broken:
                self._episodes.crew.drop(out)
        return [out[ticket] for ticket in done if self._is_back(out[ticket], ticket)]

    def _is_back(self, i: int, ticket: Ticket) -> bool:
        """Whether copy `i` is ready, after this job of it is done."""
        copy, moment = self._copies[i], self._copies[i].moment
        copy.ticket = None
        if copy.reached is not None:
            copy.moment = copy.lease.moment = Moment(moment.seed, moment.episode + 1, 0, [], ticket.rows, ticket.index, False, False)
            return True
        ended = bool(ticket.rows.terminated[ticket.index]), bool(ticket.rows.truncated[ticket.index])
        copy.reached = copy.moment = copy.lease.moment = went_on(moment, ticket.job.joints[0], ticket.rows, ticket.index, *ended)
        if any(ended):
            self._submit(i, Job(copy.lease.slot, mix_seed(moment.seed, moment.episode + 1), []), Rows(self._layout, 1), 0)
        return not any(ended)

    def _seen(self, moments: Sequence[Moment]) -> Rows:
        """What was seen at these moments, in new rows."""
        rows = Rows(self._layout, len(moments))
        for k, moment in enumerate(moments):
            rows.put(slice(k, k + 1), moment.rows, slice(moment.row, moment.row + 1))
        return rows
