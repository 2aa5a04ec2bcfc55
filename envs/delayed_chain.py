"""Delayed chain: every right action is worth something, and all of it is paid at the last step; a task whose credit is known exactly.

    R = sum_{t, i} weights[t, i] [agent i plays targets[t, i] at step t],        paid with the last of T steps, which terminates

Each agent has one right action at each step, the same in every episode of the task. So the credit of step t and agent i is
weights[t, i] (P(the policy hits) - P(the reference hits)), though no reward is seen until the end (`credit/chains.py`). One step and
one agent are worth nothing. Weights are whole eighths, whose sums 32-bit numbers hold exactly.

With `cue`, the right actions are drawn afresh in every episode and shown: agent i sees its own, as one of the A - 1 cues, in an order
of its own that it has to learn.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .base import TeamSpec, View
from .native import NativeEnv, Outcome
from .randomness import RESET, TASK, Clock, mix_seed, split, uniform


@dataclass(frozen=True)
class ChainTask:
    """One moment."""

    step: Int[Tensor, " env"]
    """Env steps taken in this episode."""
    earned: Float[Tensor, " env"]
    """The weights hit so far, not yet paid."""
    target: Int[Tensor, "env agent"]
    """The right action of the coming step; 0, which nobody is paid for, once the episode is over."""


class DelayedChain(NativeEnv[ChainTask]):
    """B copies of one delayed chain.

    An agent observes who it is, the step, and with `cue` its cue. The state is the step, what was earned so far as a share of the
    best return, and with `cue` all cues.

    Args:
        num_agents: at least 2.
        steps: T, env steps of an episode.
        num_actions: A; action 0 waits and is never right.
        null_step: step T // 2 is worth nothing to anybody.
        null_agent: the last agent is never worth anything.
        weights: (T, num_agents) numbers in place of the built-in ones; null step and agent are those that have zeros.
        cue: draw the right actions in every episode and show them.
        seed: which right actions (without `cue`), or which orders of cues, this task has.
    """

    def __init__(
        self,
        num_agents: int = 4,
        steps: int = 8,
        num_actions: int = 4,
        *,
        null_step: bool = True,
        null_agent: bool = True,
        weights: Sequence[Sequence[float | int]] | None = None,
        cue: bool = False,
        seed: int = 0,
    ):
        for name, value in (("num_agents", num_agents), ("steps", steps), ("num_actions", num_actions)):
            if value < 2:
                raise ValueError(f"{name} is {value}; it is at least 2")
        self.num_agents, self.steps, self.num_actions, self.cue = num_agents, steps, num_actions, cue
        self.weights = _weights(steps, num_agents, null_step, null_agent) if weights is None else torch.tensor(weights, dtype=torch.float64)
        if self.weights.shape != (steps, num_agents) or not bool((self.weights >= 0).all() and self.weights.isfinite().all()):
            raise ValueError(f"weights must be {steps} rows (steps) of {num_agents} numbers (agents) >= 0")
        if not bool((self.weights > 0).any()):
            raise ValueError("every weight is 0: nothing could be earned")
        best = float(self.weights.sum())
        choices = num_actions - 1
        draws = [[mix_seed(seed, t, i) % choices for i in range(num_agents)] for t in range(steps)]
        self.targets: Int[Tensor, "time agent"] = torch.tensor(draws) + 1
        """The right actions; with `cue` they mean nothing."""
        self._rotation = torch.tensor([mix_seed(seed, steps, i) % choices for i in range(num_agents)])
        self._due = torch.cat((self.targets, torch.zeros(1, num_agents, dtype=torch.int64)))
        self._paid = torch.cat((self.weights, torch.zeros(1, num_agents, dtype=torch.float64))).float()
        self._best = best
        names = (
            *(f"agent {i}" for i in range(num_agents)),
            *(f"step {t}" for t in range(steps)),
            *(f"cue {c}" for c in range(choices) if cue),
        )
        self.spec = TeamSpec(
            name="delayed-chain",
            agents=tuple(f"agent_{i}" for i in range(num_agents)),
            num_actions=num_actions,
            obs_dim=len(names),
            state_dim=steps + 1 + (num_agents * choices if cue else 0),
            episode_limit=steps,
            action_names=(("wait", *(str(a) for a in range(1, num_actions))),) * num_agents,
            obs_names=(names,) * num_agents,
            noop=(0,) * num_agents,
            return_range=(0.0, best),
            team_reward="shared",
        )

    @property
    def scripted(self) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
        """`trained` is always right; `half` at steps 0, 2, 4, ..., and waits at the others."""
        return {"trained": self._right, "half": self._half}

    def begin(self, clock: Clock) -> ChainTask:
        start = torch.zeros_like(clock.seed)
        return ChainTask(step=start, earned=start.float(), target=self._next_target(start, clock.key(RESET)))

    def _next_target(self, step: Int[Tensor, " env"], key: Int[Tensor, " env"]) -> Int[Tensor, "env agent"]:
        """The right actions of `step`; 0 after the last."""
        due = self._due.to(step.device)[step]
        if not self.cue:
            return due
        drawn = (uniform(split(key, self.num_agents)) * (self.num_actions - 1)).long() + 1
        return torch.where(due > 0, drawn, 0)

    def advance(self, task: ChainTask, action: Int[Tensor, "env agent"], clock: Clock) -> tuple[ChainTask, Outcome]:
        hit = (action == task.target) & (task.target > 0)
        earned = task.earned + (self._paid.to(action.device)[task.step] * hit).sum(1)
        step = (task.step + 1).clamp(max=self.steps)
        terminated = step == self.steps
        outcome = Outcome(
            reward=torch.where(terminated, earned, 0.0), agent_reward=None, terminated=terminated, truncated=torch.zeros_like(terminated)
        )
        return ChainTask(step=step, earned=earned, target=self._next_target(step, clock.key(TASK))), outcome

    def observe(self, task: ChainTask) -> View:
        batch, n, device = len(task.step), self.num_agents, task.step.device
        step = (task.step.unsqueeze(-1) == torch.arange(self.steps, device=device)).float()  # zeros after the last
        parts = [torch.eye(n, device=device).expand(batch, -1, -1), step.unsqueeze(1).expand(-1, n, -1)]
        state = [step, (task.earned / self._best).unsqueeze(1)]
        if self.cue:
            cues = self._show(task.target)
            parts.append(cues)
            state.append(cues.flatten(1))
        everyone = torch.ones(batch, n, dtype=torch.bool, device=device)
        return View(
            obs=torch.cat(parts, -1),
            state=torch.cat(state, -1),
            available=everyone.unsqueeze(-1).expand(-1, -1, self.num_actions),
            alive=everyone,
        )

    def _show(self, target: Int[Tensor, "env agent"]) -> Float[Tensor, "env agent cue"]:
        """Right action a as cue (a - 1 + the agent's own rotation) mod (A - 1), one-hot; zeros where there is none."""
        choices = self.num_actions - 1
        shown = (target - 1 + self._rotation.to(target.device)) % choices
        one_hot = shown.unsqueeze(-1) == torch.arange(choices, device=target.device)
        return (one_hot & (target > 0).unsqueeze(-1)).float()

    def _right(self, obs: Float[Tensor, "*batch agent obs"], available: Tensor) -> Int[Tensor, "*batch agent"]:
        n, device = self.num_agents, obs.device
        who = obs[..., :n].argmax(-1)
        if not self.cue:
            return self.targets.to(device)[obs[..., n : n + self.steps].argmax(-1), who]
        shown = obs[..., n + self.steps :].argmax(-1)
        return (shown - self._rotation.to(device)[who]) % (self.num_actions - 1) + 1

    def _half(self, obs: Float[Tensor, "*batch agent obs"], available: Tensor) -> Int[Tensor, "*batch agent"]:
        step = obs[..., self.num_agents : self.num_agents + self.steps].argmax(-1)
        return torch.where(step % 2 == 0, self._right(obs, available), 0)


def _weights(steps: int, num_agents: int, null_step: bool, null_agent: bool) -> Float[Tensor, "time agent"]:
    """Unequal over steps and agents: 1 to 5 eighths."""
    t, i = torch.arange(steps).unsqueeze(1), torch.arange(num_agents)
    weights = (1 + (2 * t + 3 * i) % 5).to(torch.float64) / 8
    if null_step:
        weights[steps // 2] = 0.0
    if null_agent:
        weights[:, -1] = 0.0
    return weights
