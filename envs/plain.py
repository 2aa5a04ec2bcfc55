"""The usual step of a ParallelEnv, read at little cost: every agent lives on, and nothing has ended.

Reading one step by the rules of live.py costs many small calls, which are dear beside an environment that has just emptied the
caches. Nearly all steps are alike, so a few comparisons tell that a step is usual; its observations are then put into
place in one call, and what can be judged for several environments at once (are all numbers finite?) waits until all have
moved. A step that is unusual in any way, a forbidden one included, is read by live.py, which alone names what is wrong.
"""

from types import TracebackType
from typing import Any

import numpy as np

from .layout import Layout
from .live import Rows, Slot, all_finite, check_finite, play, read_step, write_state, write_view


class Usual:
    """What is asked of each usual step of a task, worked out once."""

    def __init__(self, layout: Layout):
        self.layout = layout
        self.agents = list(layout.agents)
        self.names = dict.fromkeys(layout.agents).keys()
        self.shapes = [plan.shape for plan in layout.obs_plans]
        self.direct = all(plan.sizes is None and plan.start == 0 for plan in layout.action_plans)
        """The numbers of actions are the environment's own."""
        self.packed = all(
            not plan.in_dict and plan.one_hot_from is None and plan.width == layout.obs_dim and not (plan.is_image and self._is_float)
            for plan in layout.obs_plans
        )
        """The observations stand side by side as they come: none is padded, encoded or scaled."""
        self.mask_shape = (layout.num_actions,)
        self.equal_actions = all(plan.count == layout.num_actions for plan in layout.action_plans)
        self.available = np.zeros((len(self.agents), layout.num_actions), dtype=np.bool_)
        for row, plan in zip(self.available, layout.action_plans, strict=True):
            row[: plan.count] = True

    @property
    def _is_float(self) -> bool:
        return self.layout.obs_dtype is not np.uint8


class Reading:
    """One step of several environments on its way into rows; complete when the `with` block is left.

    `job` is told the position of the step that is being done or judged.
    """

    __slots__ = ("doubtful", "indices", "job", "numbers", "paid", "rows", "steps", "team", "usual")

    def __init__(self, usual: Usual, rows: Rows, job: np.ndarray):
        self.usual, self.rows, self.job = usual, rows, job
        self.doubtful = False
        """Some state holds numbers that may not be finite."""
        self.numbers: list[int] = []
        self.indices: list[int] = []
        self.steps: list[int] = []
        self.paid: list[list[float]] = []
        self.team: list[float] = []

    def __enter__(self) -> "Reading":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Judges what waited. Where a later environment failed, what is wrong with an earlier one goes before."""
        if self.indices:
            self._settle()

    def advance(self, slot: Slot, actions: list[int], index: int) -> None:
        """One joint action of the living agents in this environment, seen in row `index`, which is zeros before it."""
        usual = self.usual
        layout, env = usual.layout, slot.env
        slot.step += 1
        if slot.whole:
            joint = zip(layout.agents, actions, strict=True)
            played = dict(joint) if usual.direct else {a: p.decode(c) for (a, c), p in zip(joint, layout.action_plans, strict=True)}
            result = play(env, played)
            if self._is_usual(env, result, slot.step, index):
                slot.seen, slot.at = self.rows, index
                return
            acting = range(len(layout.agents))
        else:
            acting = np.flatnonzero(slot.alive).tolist()
            played = {layout.agents[i]: layout.action_plans[i].decode(actions[i]) for i in acting}
            result = play(env, played)
        read_step(env, layout, result, acting, self.rows, index, state=slot.state, step=slot.step)
        slot.stand(self.rows, index)

    def _is_usual(self, env: Any, result: Any, step: int, index: int) -> bool:
        """Whether this step is, and then all of it is in row `index` but what `_settle` adds; else nothing is."""
        usual = self.usual
        obs, rewards, terminations, truncations, infos = result
        live, names, count = env.agents, usual.names, len(usual.agents)
        if type(live) is not list or live != usual.agents or step == usual.layout.time_limit:
            return False
        if not (obs.keys() == names and rewards.keys() == names and terminations.keys() == names and truncations.keys() == names):
            return False
        if list(terminations.values()).count(False) != count or list(truncations.values()).count(False) != count:
            return False
        try:
            paid = [float(rewards[agent]) for agent in usual.agents]
        except (TypeError, ValueError):
            return False
        team = sum(paid)
        if not -np.inf < team < np.inf:
            return False
        if usual.layout.team_reward == "mean":
            team /= count
        elif usual.layout.team_reward == "shared":
            team = paid[0]
            if max(paid) - min(paid) > 1e-6 * max(1.0, abs(team)):
                return False
        if not (usual.packed and self._pack(obs, infos, index)):
            write_view(env, usual.layout, obs, infos, names, self.rows, index, step=step)
        if usual.layout.state_shape is not None:
            self.doubtful |= write_state(env, usual.layout, self.rows, index, step=step, last=None, over=False)
        self.numbers.append(int(self.job[0]))
        self.indices.append(index)
        self.steps.append(step)
        self.paid.append(paid)
        self.team.append(team)
        return True

    def _pack(self, obs: dict, infos: dict, index: int) -> bool:
        """The view in few calls, where observations are arrays of the right shape, and there are no masks or all are there."""
        usual, rows = self.usual, self.rows
        values = [obs[agent] for agent in usual.agents]
        for value, shape in zip(values, usual.shapes, strict=True):
            if type(value) is not np.ndarray or value.shape != shape:
                return False
        if usual.layout.masked:
            if not usual.equal_actions or not infos.keys() >= usual.names:
                return False
            masks: list[Any] = [info.get("action_mask") if (info := infos[agent]) else None for agent in usual.agents]
            for mask in masks:
                if type(mask) is not np.ndarray or mask.shape != usual.mask_shape or not np.count_nonzero(mask):
                    return False
            np.concatenate(masks, out=rows.available[index].reshape(-1), casting="unsafe")
        else:
            for info in infos.values():
                if info and "action_mask" in info:
                    return False
            rows.available[index] = usual.available
        np.concatenate(values, axis=None, out=rows.obs[index].reshape(-1), casting="unsafe")
        rows.alive[index] = True
        return True

    def _settle(self) -> None:
        rows, layout, where = self.rows, self.usual.layout, compact(self.indices)
        rows.agent_reward[where], rows.reward[where], rows.step[where] = self.paid, self.team, self.steps
        if layout.state_shape is None:
            seen = rows.obs[where].reshape(len(self.indices), -1)
            rows.state[where] = seen / np.float32(255) if layout.state_is_image else seen
        finite = layout.obs_dtype is np.uint8 or all_finite(rows.obs[where])
        if finite and not (self.doubtful and not all_finite(rows.state[where])):
            return
        for number, index, step in zip(self.numbers, self.indices, self.steps, strict=True):
            self.job[0] = number
            check_finite(layout, rows, index, step)


def compact(indices: list[int]) -> "list[int] | slice":
    """The same rows as a slice where they are evenly spaced, so that numpy neither gathers nor scatters."""
    first, last, count = indices[0], indices[-1], len(indices)
    stride = (last - first) // (count - 1) if count > 1 else 1
    return slice(first, last + 1, stride) if stride > 0 and indices == list(range(first, last + 1, stride)) else indices
