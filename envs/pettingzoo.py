"""Any PettingZoo ParallelEnv (SuperSuit-wrapped or not) as a `TeamEnv`: B live environments stepped side by side.

A Python environment cannot be copied reliably, so a `State` is an opaque handle: it names, per copy, the episode (copy
seed, episode number) and the actions played in it, and leases a live environment that stands there. A handle stays
good after it was stepped: whatever needs a second environment at the same moment (`select`, `load`, a second `step`
from one handle) replays the episode, and is refused with a reason when the replay sees something else than was
recorded. Leases go back to a pool when the last handle that holds them is garbage: repeated `reset` builds nothing new,
and two handles that move on apart never share an environment.

Every episode starts with `reset(seed=mix_seed(copy seed, episode))`, so it does not depend on its past or neighbours.
"""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from .base import Saved, Step, TeamSpec, View
from .layout import lay_out
from .live import Rows, advance, begin
from .randomness import mix_seed

TeamReward = Literal["shared", "sum", "mean"]


@dataclass(frozen=True, eq=False, slots=True)
class Moment:
    """Where one copy stands; enough to come back to it."""

    seed: int
    episode: int
    step: int
    actions: list[list[int]]
    """Joint actions of the episode; this moment's are the first `step` of them (the list may grow behind it)."""
    view: tuple[np.ndarray, ...]
    """obs, state, available, alive."""
    terminated: bool
    truncated: bool


class Lease:
    """The right to move one live environment; it goes back to the pool when no handle holds it any more."""

    __slots__ = ("__weakref__", "env", "moment")

    def __init__(self, env: Any, pool: list[Any] | None):
        """`pool` None: the environment serves one episode and is not given back."""
        self.env = env
        self.moment: Moment | None = None
        """Where the environment stands now, None while it is moving or after it failed."""
        if pool is not None:
            weakref.finalize(self, pool.append, env).atexit = False


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
        self._reuse = reuse
        self._made: list[Any] = []
        self._pool: list[Any] = []
        env = self._build()
        self._layout = lay_out(env, name, team_reward or "shared", time_limit, state, discrete_remedy)
        if reuse:
            self._pool.append(env)
        num_agents = len(self._layout.agents)
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
            action_names=action_names,
            obs_names=obs_names,
            noop=None if noop is None else tuple(noop),
            return_range=return_range,
            team_reward=self._layout.team_reward,
        )

    def reset(self, seeds: Int[Tensor, " env"]) -> tuple[PettingZooState, View]:
        rows = Rows(self._layout, len(seeds))
        leases = [self._lease() for _ in range(len(seeds))]
        moments = [self._start(lease, int(seed), 0, rows, i) for i, (lease, seed) in enumerate(zip(leases, seeds.tolist(), strict=True))]
        return PettingZooState(tuple(moments), tuple(leases)), _view(rows)

    def step(
        self, state: PettingZooState, action: Int[Tensor, "env agent"], *, autoreset: bool = True
    ) -> tuple[PettingZooState, Step, View]:
        joint = self._checked(state, action)
        rows = Rows(self._layout, len(joint))
        moments, leases = list(state.moments), list(state.leases)
        for i, moment in enumerate(state.moments):
            if moment.terminated or moment.truncated:  # only without automatic reset: those copies stay as they ended
                rows.put_view(i, moment.view)
                rows.terminated[i], rows.truncated[i] = moment.terminated, moment.truncated
                continue
            if leases[i].moment is not moment:
                leases[i] = self._restore(moment)
            moments[i] = self._move(leases[i], joint[i], rows, i)
        after = _view(rows)
        step = Step(
            reward=torch.from_numpy(rows.reward),
            agent_reward=torch.from_numpy(rows.agent_reward),
            terminated=torch.from_numpy(rows.terminated),
            truncated=torch.from_numpy(rows.truncated),
            after=after,
        )
        done = np.flatnonzero(rows.terminated | rows.truncated).tolist() if autoreset else []
        if not done:
            return PettingZooState(tuple(moments), tuple(leases)), step, after
        fresh = Rows(self._layout, len(done))
        view = View(after.obs.clone(), after.state.clone(), after.available.clone(), after.alive.clone())
        for row, i in enumerate(done):
            # A frozen copy's environment may have moved on under another handle.
            if leases[i].moment is not moments[i] or not self._reuse:
                leases[i] = self._lease()
            moments[i] = self._start(leases[i], moments[i].seed, moments[i].episode + 1, fresh, row)
        seen = _view(fresh)
        view.obs[done], view.state[done], view.available[done], view.alive[done] = seen.obs, seen.state, seen.available, seen.alive
        return PettingZooState(tuple(moments), tuple(leases)), step, view

    def select(self, state: PettingZooState, rows: Int[Tensor, " new"]) -> PettingZooState:
        """The copies named by `rows`, each in an environment of its own that replayed the running episode.

        Raises:
            ValueError: a replay saw something else than was recorded (the task draws on more than its seed).
        """
        moments = [state.moments[row] for row in rows.tolist()]
        leases = [self._restore(moment) for moment in moments]
        return PettingZooState(tuple(self._standing(lease) for lease in leases), tuple(leases))

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
        view = _view(rows)
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
        leases = []
        for i in range(len(fields["seed"])):
            view = tuple(saved.tensors[name][i].numpy() for name in ("obs", "state", "available", "alive"))
            own = {name: values[i] for name, values in fields.items()}
            leases.append(self._restore(Moment(actions=saved.tensors["actions"][i].tolist(), view=view, **own)))
        return PettingZooState(tuple(self._standing(lease) for lease in leases), tuple(leases))

    def live(self, state: PettingZooState, row: int) -> Any:
        """The ParallelEnv that stands at this copy's moment, to look at or `render`; stepping it by hand is not noticed."""
        moment, lease = state.moments[row], state.leases[row]
        return (lease if lease.moment is moment else self._restore(moment)).env

    def close(self) -> None:
        """Close every environment kept. Handles are dead after it; `reset` makes new ones. Twice is once."""
        made, self._made, self._pool = self._made, [], []
        for env in made:
            env.close()

    def _build(self) -> Any:
        env = self.maker()
        if self._reuse:
            self._made.append(env)
        return env

    def _lease(self) -> Lease:
        return Lease(self._pool.pop() if self._pool else self._build(), self._pool if self._reuse else None)

    def _standing(self, lease: Lease) -> Moment:
        assert lease.moment is not None
        return lease.moment

    def _start(self, lease: Lease, seed: int, episode: int, rows: Rows, index: int) -> Moment:
        lease.moment = None
        begin(lease.env, self._layout, mix_seed(seed, episode), rows, index)
        lease.moment = Moment(seed, episode, 0, [], rows.view_of(index), False, False)
        return lease.moment

    def _move(self, lease: Lease, joint: list[int], rows: Rows, index: int) -> Moment:
        moment, lease.moment = self._standing(lease), None
        advance(lease.env, self._layout, joint, rows, index, before=moment.view, step=moment.step + 1)
        # Only a lease appends to its own list, at its end; handles that stay behind keep reading their first `step` entries.
        assert len(moment.actions) == moment.step
        moment.actions.append(joint)
        ended = bool(rows.terminated[index]), bool(rows.truncated[index])
        lease.moment = Moment(moment.seed, moment.episode, moment.step + 1, moment.actions, rows.view_of(index), *ended)
        return lease.moment

    def _restore(self, moment: Moment) -> Lease:
        """A lease on another environment, brought to `moment` by replay and checked against what was recorded."""
        lease, rows = self._lease(), Rows(self._layout, moment.step + 1)
        here = self._start(lease, moment.seed, moment.episode, rows, 0)
        for step, joint in enumerate(moment.actions[: moment.step]):
            if here.terminated or here.truncated:
                raise ValueError(f"{self._refusal(moment)} the episode ends at step {step}")
            here = self._move(lease, joint, rows, step + 1)
        for what, recorded, seen in zip(
            ("observations", "state", "available actions", "living agents"), moment.view, here.view, strict=True
        ):
            if not np.array_equal(recorded, seen):
                raise ValueError(f"{self._refusal(moment)} the {what} differ (by up to {np.abs(seen.astype(float) - recorded).max():g})")
        if (here.terminated, here.truncated) != (moment.terminated, moment.truncated):
            raise ValueError(f"{self._refusal(moment)} it ends differently")
        return lease

    def _refusal(self, moment: Moment) -> str:
        replay = f"replaying episode {moment.episode} of copy seed {moment.seed} to step {moment.step}"
        return f"{self.spec.name} cannot be copied exactly: {replay},"

    def _checked(self, state: PettingZooState, action: Tensor) -> list[list[int]]:
        """The joint actions as Python integers; ValueError for one that the agent does not have."""
        joint = action.tolist()
        if len(joint) != len(state.moments):
            raise ValueError(f"{len(joint)} joint actions for {len(state.moments)} copies")
        plans = self._layout.action_plans
        for row, moment in zip(joint, state.moments, strict=True):
            for i, choice in enumerate(row):
                if not 0 <= choice < plans[i].count and moment.view[3][i]:
                    raise ValueError(f"{self.spec.agents[i]} has actions 0 to {plans[i].count - 1}, not {choice}")
        return joint


def _view(rows: Rows) -> View:
    """The rows as tensors. They share memory with the rows, which nobody writes again."""
    return View(*(torch.from_numpy(array) for array in (rows.obs, rows.state, rows.available, rows.alive)))
