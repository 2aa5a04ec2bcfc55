"""Any PettingZoo ParallelEnv (SuperSuit-wrapped or not) as a `TeamEnv`: B live environments stepped side by side.

A `State` is an opaque handle: it names, per copy, the episode (copy seed, episode number) and the actions played in it, and
leases a live environment that stands there. A handle stays good after it was stepped: whatever needs a second environment
at the same moment (`select`, `load`, a second `step` from one handle) replays the episode, and is refused with a reason
when the replay sees something else than was recorded. `select` copies the live environment instead where a test has shown
that copies are exact (fork_check.py) and it still stands there. Leases go back to a pool when the last handle that holds
them is garbage: repeated `reset` builds nothing new, and two handles that move on apart never share an environment.

Every episode starts with `reset(seed=mix_seed(copy seed, episode))`, so it does not depend on its past or neighbours,
nor on the process it is played in: the environments themselves are moved by a crew, here (crew.py) or in workers (vector.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from .base import Saved, Step, TeamSpec, View
from .crew import Crew, LocalCrew
from .episodes import Episodes, Lease, Moment, standing
from .fork_check import CopyCheck
from .fork_kinds import CannotCopy
from .layout import lay_out
from .live import Rows

TeamReward = Literal["shared", "sum", "mean"]


@dataclass(frozen=True, eq=False)
class PettingZooState:
    """A handle to B copies."""

    moments: tuple[Moment, ...]
    leases: tuple[Lease, ...] = field(repr=False)


class PettingZooTeam:
    """B copies of a ParallelEnv as one cooperative task.

    Args:
        maker: gives a new ParallelEnv at each call.
        name: task id, for people.
        team_reward: "shared" (all agents must be paid the same), "sum" or "mean" (over all agents, dead ones with 0) of the agents'
            rewards. None is "shared", and refuses a task whose agents are paid differently.
        time_limit: cut each episode after this many env steps; an end reported as termination in exactly that step is then a truncation too
            (for tasks which report their own limit as termination).
        episode_limit: env steps after which the task truncates by itself, if known; `time_limit` where that is given.
        noop: the action that does nothing: one for all agents, or one per agent (None for an agent without).
        reuse: keep environments for later episodes; False makes a new one for every episode (for a task whose `reset` does not forget).
        state: "env" takes `env.state()`, "observations" puts the padded observations side by side; None: the first where there is one.
        discrete_remedy: what to tell a person whose task has actions that are not discrete.

    Raises:
        UnsupportedTask: turn-based, actions that cannot be numbered, observations without a flat form.
        ContractBroken: the environment does what PettingZoo's interface forbids; the rule, agent and step are named.
    """

    def __init__(
        self,
        maker: Callable[[], Any],
        *,
        name: str,
        team_reward: TeamReward | None = None,
        time_limit: int | None = None,
        episode_limit: int | None = None,
        noop: int | Sequence[int | None] | None = None,
        action_names: tuple[tuple[str, ...], ...] = (),
        obs_names: tuple[tuple[str, ...], ...] = (),
        return_range: tuple[float, float] | None = None,
        reuse: bool = True,
        state: Literal["env", "observations"] | None = None,
        discrete_remedy: str = "Wrap it.",
    ):
        if team_reward not in (None, "shared", "sum", "mean"):
            raise ValueError(f'team_reward is {team_reward!r}; choose "shared", "sum" or "mean"')
        if time_limit is not None and time_limit < 1:
            raise ValueError(f"time_limit is {time_limit}; an episode has at least 1 env step")
        self.maker = maker
        env = maker()
        self._layout = lay_out(env, name, team_reward or "shared", time_limit, state, discrete_remedy)
        self.here = LocalCrew(maker, self._layout, reuse=reuse, first=env)
        """The environments of this process."""
        self.episodes = Episodes(self.here, self._layout)
        self._shown: Lease | None = None
        num_agents = len(self._layout.agents)
        self._every_agent_has = min(plan.count for plan in self._layout.action_plans)
        if isinstance(noop, int):
            noop = (noop,) * num_agents
        self.spec = TeamSpec(
            name=name,
            agents=tuple(str(agent) for agent in self._layout.agents),
            num_actions=self._layout.num_actions,
            obs_dim=self._layout.obs_dim,
            state_dim=self._layout.state_dim,
            episode_limit=time_limit or episode_limit,
            obs_dtype=torch.uint8 if self._layout.obs_dtype is np.uint8 else torch.float32,
            obs_shape=self._layout.obs_shape,
            state_is_obs=self._layout.state_shape is None,
            action_names=action_names,
            obs_names=obs_names,
            noop=None if noop is None else tuple(noop),
            return_range=return_range,
            team_reward=self._layout.team_reward,
        )

    def work_in(self, crew: Crew) -> None:
        """Have another crew move the environments, before the first `reset`."""
        self.episodes = Episodes(crew, self._layout)

    @property
    def is_here(self) -> bool:
        """The environments are stepped in this process."""
        return self.episodes.crew is self.here

    def reset(self, seeds: Int[Tensor, " env"]) -> tuple[PettingZooState, View]:
        copies, rows = range(len(seeds)), Rows(self._layout, len(seeds))
        leases = self.episodes.leases(copies)
        moments = self.episodes.start(leases, [(seed, 0) for seed in seeds.tolist()], rows, copies)
        return PettingZooState(tuple(moments), tuple(leases)), view_of(rows)

    def step(
        self, state: PettingZooState, action: Int[Tensor, "env agent"], *, autoreset: bool = True
    ) -> tuple[PettingZooState, Step, View]:
        joint = self._checked(state, action)
        rows = Rows(self._layout, len(joint))
        moments, leases = list(state.moments), list(state.leases)
        running = [i for i, moment in enumerate(moments) if not (moment.terminated or moment.truncated)]
        if len(running) < len(moments):  # only without automatic reset: copies that ended stay as they are
            for i in {*range(len(moments))}.difference(running):
                rows.put_view(i, moments[i].view)
                rows.terminated[i], rows.truncated[i] = moments[i].terminated, moments[i].truncated
        gone = [i for i in running if not self.episodes.stands(leases[i], moments[i])]
        if gone:
            _put(leases, gone, self.episodes.restore([moments[i] for i in gone], gone))
        _put(moments, running, self.episodes.move([leases[i] for i in running], [joint[i] for i in running], rows, running))
        step = step_of(rows)
        after = step.after
        done = [i for i, moment in enumerate(moments) if moment.terminated or moment.truncated] if autoreset else []
        if not done:
            return PettingZooState(tuple(moments), tuple(leases)), step, after
        fresh = Rows(self._layout, len(done))
        view = View(after.obs.clone(), after.state.clone(), after.available.clone(), after.alive.clone())
        # A frozen copy's environment may have moved on under another handle.
        gone = [i for i in done if leases[i].moment is not moments[i]]
        _put(leases, gone, self.episodes.leases(gone))
        episodes = [(moments[i].seed, moments[i].episode + 1) for i in done]
        _put(moments, done, self.episodes.start([leases[i] for i in done], episodes, fresh, done))
        seen = view_of(fresh)
        view.obs[done], view.state[done], view.available[done], view.alive[done] = seen.obs, seen.state, seen.available, seen.alive
        return PettingZooState(tuple(moments), tuple(leases)), step, view

    @cached_property
    def copy_check(self) -> CopyCheck:
        """Whether live environments of this task can be copied exactly; tried once, in an environment of its own."""
        if not self.is_here:
            return CopyCheck(False, "its environments live in worker processes, where they are replayed", None, 0, 0)
        (lease,) = self.episodes.leases([0])
        return self.here.try_copies(lease.slot)

    def select(self, state: PettingZooState, rows: Int[Tensor, " new"]) -> PettingZooState:
        """The copies named by `rows`, each in an environment of its own.

        Where copies are exact (`copy_check`) and the environment still stands at the moment of `state`, it is copied; else
        the running episode is replayed, once for all rows that name the same moment where copies are exact. Environments in worker
        processes are always replayed.

        Raises:
            ValueError: a replay saw something else than was recorded (the task draws on more than its seed).
        """
        chosen = rows.tolist()
        moments = [state.moments[row] for row in chosen]
        if not moments or not self.copy_check.exact:
            return self._restored(moments)
        sources = {
            id(moment): lease for moment, lease in zip(state.moments, state.leases, strict=True) if self.episodes.stands(lease, moment)
        }
        gone = {id(moment): (copy, moment) for copy, moment in enumerate(moments) if id(moment) not in sources}
        replayed = self.episodes.restore([moment for _, moment in gone.values()], [copy for copy, _ in gone.values()])
        fresh = dict(zip(gone, replayed, strict=True))
        sources |= fresh
        leases = [fresh.pop(id(moment), None) or self._copied(sources[id(moment)], moment, copy) for copy, moment in enumerate(moments)]
        return PettingZooState(tuple(standing(lease) for lease in leases), tuple(leases))

    def dump(self, state: PettingZooState) -> Saved:
        """Per copy: seed, episode, step, the actions of the running episode (padded with -1), what is seen, how it ended."""
        moments = state.moments
        longest = max((moment.step for moment in moments), default=0)
        actions = torch.full((len(moments), longest, len(self.spec.agents)), -1, dtype=torch.int64)
        for i, moment in enumerate(moments):
            if moment.step:
                actions[i, : moment.step] = torch.tensor(moment.actions[: moment.step])
        tensors = {name: torch.tensor([getattr(moment, name) for moment in moments]) for name in ("seed", "episode", "step")}
        ended = {name: torch.tensor([getattr(moment, name) for moment in moments]) for name in ("terminated", "truncated")}
        rows = Rows(self._layout, len(moments))
        for i, moment in enumerate(moments):
            rows.put_view(i, moment.view)
        view = view_of(rows)
        seen = {"obs": view.obs, "state": view.state, "available": view.available, "alive": view.alive}
        return Saved(
            tensors={**tensors, "actions": actions, **ended, **seen}, meta={"task": self.spec.name, "agents": list(self.spec.agents)}
        )

    def load(self, saved: Saved) -> PettingZooState:
        if saved.meta.get("task") != self.spec.name or saved.meta.get("agents") != list(self.spec.agents):
            raise ValueError(
                f"this saved state is of {saved.meta.get('task')} with agents {saved.meta.get('agents')}, not of {self.spec.name}"
            )
        fields = {name: tensor.tolist() for name, tensor in saved.tensors.items() if tensor.dim() == 1}
        moments, count = [], len(fields["seed"])
        rows = Rows(self._layout, count)
        for i in range(count):
            rows.put_view(i, tuple(saved.tensors[name][i].numpy() for name in ("obs", "state", "available", "alive")))
            own = {name: values[i] for name, values in fields.items()}
            moments.append(Moment(actions=saved.tensors["actions"][i].tolist(), rows=rows, row=i, **own))
        return self._restored(moments)

    def live(self, state: PettingZooState, row: int) -> Any:
        """The ParallelEnv that stands at this copy's moment, to look at or `render`; stepping it by hand is not noticed.

        Where it lives in another process (or moved on), one of this process replays the episode; it stays good until the next call.
        """
        moment, lease = state.moments[row], state.leases[row]
        if not self.is_here or not self.episodes.stands(lease, moment):
            show = Episodes(self.here, self._layout)
            if self._shown is None or not show.follow(self._shown, moment, row):
                self._shown = None  # its slot is free before the next one is taken
                (self._shown,) = show.restore([moment], [row])
            lease = self._shown
        return self.here.places[lease.slot].env

    def close(self) -> None:
        """Close every environment kept. Handles that are used after it replay their episodes in new ones. Twice is once."""
        self.episodes.crew.close()
        self.here.close()

    def _copied(self, source: Lease, moment: Moment, copy: int) -> Lease:
        """The right to move a copy of the environment that stands at `moment`; a replay where this one has a part without a copy."""
        (lease,) = self.episodes.leases([copy])
        try:
            self.here.copy(source.slot, lease.slot)
        except CannotCopy:  # the test was passed at another moment; a replay is compared with what was seen
            return self.episodes.restore([moment], [copy])[0]
        lease.moment = moment._replace(actions=moment.actions[: moment.step])
        return lease

    def _restored(self, moments: Sequence[Moment]) -> PettingZooState:
        leases = self.episodes.restore(moments, range(len(moments)))
        return PettingZooState(tuple(standing(lease) for lease in leases), tuple(leases))

    def _checked(self, state: PettingZooState, action: Tensor) -> list[list[int]]:
        """The joint actions as Python integers; ValueError for one that the agent does not have."""
        if len(action) != len(state.moments):
            raise ValueError(f"{len(action)} joint actions for {len(state.moments)} copies")
        return self.check_actions(state.moments, action)

    def check_actions(self, moments: Sequence[Moment], action: Int[Tensor, "env agent"]) -> list[list[int]]:
        """The joint actions at these moments as Python integers; ValueError for one that the agent does not have."""
        joint = action.tolist()
        for row, moment in zip(joint, moments, strict=True):
            if min(row) >= 0 and max(row) < self._every_agent_has:
                continue
            for i, choice in enumerate(row):
                count = self._layout.action_plans[i].count
                if not 0 <= choice < count and moment.view[3][i]:
                    raise ValueError(f"{self.spec.agents[i]} has actions 0 to {count - 1}, not {choice}")
        return joint


def _put(items: list[Any], positions: Sequence[int], new: Sequence[Any]) -> None:
    for position, item in zip(positions, new, strict=True):
        items[position] = item


def view_of(rows: Rows) -> View:
    """The rows as tensors. They share memory with the rows, which nobody writes again."""
    return View(*(torch.from_numpy(array) for array in (rows.obs, rows.state, rows.available, rows.alive)))


def step_of(rows: Rows) -> Step:
    """The same for what a step brought."""
    return Step(
        reward=torch.from_numpy(rows.reward),
        agent_reward=torch.from_numpy(rows.agent_reward),
        terminated=torch.from_numpy(rows.terminated),
        truncated=torch.from_numpy(rows.truncated),
        after=view_of(rows),
    )
