"""Cooperative spread: N agents cover N landmarks without bumping into each other, as MPE2's `simple_spread_v3` (mpe2 1.1.1).

Agents are discs of radius 0.15 pushed by a unit action; landmarks do not collide. One env step, in the reference's order:

    F_i = 5 u_i + sum_j 100 pen(d_ij) (p_i - p_j) / d_ij,     pen(d) = k log(1 + exp((0.3 - d) / k)),  k = 0.001
    p_i <- p_i + 0.1 v_i        (with the velocity *before* the step)
    v_i <- 0.75 v_i + 0.1 F_i
    r_i = (1 - local_ratio) (-sum_l min_i |p_i - l|) - local_ratio #{j != i : |p_i - p_j| < 0.3}

Positions and velocities are float64 as in the reference, so that whole episodes agree; observations and rewards are
float32. Lengths are in units of half the arena's side (starts and landmarks are uniform in [-1, 1]^2).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .base import TeamSpec, View
from .native import NativeEnv, Outcome
from .randomness import RESET, Clock, split, uniform
from .spread_policy import landmark_mover

ACTION_NAMES = ("noop", "left", "right", "down", "up")
_TIME_STEP, _DAMPING, _SENSITIVITY = 0.1, 0.25, 5.0
_CONTACT_FORCE, _CONTACT_MARGIN, CONTACT_DISTANCE = 100.0, 1e-3, 0.3


@dataclass(frozen=True)
class SpreadTask:
    """One moment: where everything is."""

    position: Float[Tensor, "env agent 2"]
    velocity: Float[Tensor, "env agent 2"]
    landmark: Float[Tensor, "env agent 2"]


def env_last(points: Float[Tensor, "env point 2"]) -> Float[Tensor, "point 2 env"]:
    """A view with the copies along the last axis, where arithmetic runs over many copies at once."""
    return points.permute(1, 2, 0)


def thrust(action: Int[Tensor, "agent env"]) -> Float[Tensor, "agent 2 env"]:
    """Each agent's own push: its action's direction, 5 long."""
    left, right, down, up = ((action == number).double() for number in range(1, 5))
    return torch.stack((right - left, up - down), 1).mul_(_SENSITIVITY)


def length(vector: Float[Tensor, "*shape 2 env"]) -> Float[Tensor, "*shape env"]:
    """Euclidean length, by operations that round the same for every batch size."""
    x, y = vector.unbind(-2)
    return (x * x + y * y).sqrt_()


def contact_force(position: Float[Tensor, "agent 2 env"]) -> Float[Tensor, "agent 2 env"]:
    """The soft repulsion on each agent by all others (two agents at the very same point: none, where the reference has NaN)."""
    apart = position.unsqueeze(1) - position.unsqueeze(0)
    distance = length(apart)
    depth = (CONTACT_DISTANCE - distance) / _CONTACT_MARGIN
    # log(1 + e^x) spelled out: torch's logaddexp and softplus round differently in the last entries of a batch.
    softened = depth.abs().neg_().exp_().log1p_() + depth.clamp_min_(0.0)
    push = softened.mul_(_CONTACT_FORCE * _CONTACT_MARGIN) / distance.clamp_min_(1e-300)
    return added(push.unsqueeze(2) * apart, 1)


def added(terms: Float[Tensor, "*terms"], axis: int) -> Float[Tensor, "*sums"]:
    """Their sum along one axis, one term after another: torch's own sum takes an order that depends on how many copies there are."""
    return reduce(torch.add, terms.unbind(axis))


class Spread(NativeEnv[SpreadTask]):
    """B copies of `simple_spread_v3`; every episode is truncated after `episode_limit` env steps.

    Args:
        num_agents: agents, and as many landmarks.
        episode_limit: env steps of an episode (MPE2: `max_cycles`).
        local_ratio: weight of an agent's own collisions; the rest weighs the shared distance term.
        team_reward: "sum" or "mean" of the agents' rewards. The usual 3-agent figures are sums (random play: about -81).
    """

    def __init__(self, num_agents: int = 3, episode_limit: int = 25, local_ratio: float = 0.5, team_reward: str = "sum"):
        if num_agents < 1:
            raise ValueError(f"num_agents is {num_agents}; spread needs at least 1 agent")
        if episode_limit < 1:
            raise ValueError(f"episode_limit is {episode_limit}; an episode has at least 1 env step")
        if not 0.0 <= local_ratio <= 1.0:
            raise ValueError(f"local_ratio is {local_ratio}; it is a share, from 0 to 1")
        if team_reward not in ("sum", "mean"):
            raise ValueError(f"team_reward is {team_reward!r}; choose 'sum' or 'mean' of the agents' rewards")
        self.local_ratio, self.episode_limit = local_ratio, episode_limit
        obs_dim = 4 + 2 * num_agents + 4 * (num_agents - 1)
        self.spec = TeamSpec(
            name="spread" if num_agents == 3 else f"spread-{num_agents}",
            agents=tuple(f"agent_{i}" for i in range(num_agents)),
            num_actions=len(ACTION_NAMES),
            obs_dim=obs_dim,
            state_dim=num_agents * obs_dim,
            state_is_obs=True,
            episode_limit=episode_limit,
            truncates_at_limit=True,
            action_names=(ACTION_NAMES,) * num_agents,
            obs_names=tuple(_obs_names(i, num_agents) for i in range(num_agents)),
            noop=(0,) * num_agents,
            team_reward=team_reward,
        )

    @property
    def scripted(self) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
        """`mover`: drives to the landmark that a greedy matching gives it."""
        return {"mover": partial(landmark_mover, num_agents=self.spec.num_agents)}

    def begin(self, clock: Clock) -> SpreadTask:
        n = self.spec.num_agents
        points = uniform(split(clock.key(RESET), 4 * n, axis=0)).mul_(2.0).sub_(1.0).unflatten(0, (2, n, 2))
        position, landmark = points.permute(3, 0, 1, 2).unbind(1)
        return SpreadTask(position=position, velocity=torch.zeros_like(position), landmark=landmark)

    def advance(self, task: SpreadTask, action: Int[Tensor, "env agent"], clock: Clock) -> tuple[SpreadTask, Outcome]:
        here, speed = env_last(task.position), env_last(task.velocity)
        force = contact_force(here).add_(thrust(action.t()))
        position = here + _TIME_STEP * speed
        velocity = ((1.0 - _DAMPING) * speed).add_(force, alpha=_TIME_STEP)
        agent_reward = self._agent_reward(position, env_last(task.landmark))
        team = added(agent_reward, 0)
        if self.spec.team_reward == "mean":
            team = team / self.spec.num_agents
        truncated = clock.step + 1 >= self.episode_limit
        outcome = Outcome(
            reward=team.float(), agent_reward=agent_reward.float().t(), terminated=torch.zeros_like(truncated), truncated=truncated
        )
        return SpreadTask(position=position.permute(2, 0, 1), velocity=velocity.permute(2, 0, 1), landmark=task.landmark), outcome

    def _agent_reward(self, position: Float[Tensor, "agent 2 env"], landmark: Float[Tensor, "agent 2 env"]) -> Float[Tensor, "agent env"]:
        """(1 - local_ratio) times minus the sum over landmarks of the nearest agent's distance, less local_ratio per collision."""
        n = self.spec.num_agents
        distance = length(torch.cat((landmark, position)) - position.unsqueeze(1))  # (agent, landmarks then agents, env)
        uncovered = added(distance[:, :n].amin(0), 0)
        collisions = (distance[:, n:] < CONTACT_DISTANCE).sum(1) - 1  # an agent does not collide with itself
        return (self.local_ratio - 1.0) * uncovered - self.local_ratio * collisions

    def observe(self, task: SpreadTask) -> View:
        batch, n, _ = task.position.shape
        position, velocity, landmark = env_last(task.position), env_last(task.velocity), env_last(task.landmark)
        from_self = (torch.cat((landmark, position)) - position.unsqueeze(1)).flatten(1, 2)  # (agent, landmarks then agents x 2, env)
        # The pairs (i, j != i) in row-major order: drop (0, 0), then every (n+1)-th entry.
        others = from_self[:, 2 * n :].reshape(n * n, 2, batch)[1:].reshape(n - 1, n + 1, 2, batch)[:, :-1].reshape(n, 2 * (n - 1), batch)
        signals = torch.zeros_like(others)  # the others' signals, always 0 here
        obs = (
            torch.cat((velocity, position, from_self[:, : 2 * n], others, signals), 1)
            .permute(2, 0, 1)
            .to(torch.float32, memory_format=torch.contiguous_format)
        )
        everyone = torch.ones(batch, n, dtype=torch.bool, device=obs.device)
        return View(obs=obs, state=obs.flatten(1), available=everyone.unsqueeze(-1).expand(-1, -1, len(ACTION_NAMES)), alive=everyone)


def _obs_names(agent: int, num_agents: int) -> tuple[str, ...]:
    """Labels of one agent's features, in the order of `Spread.observe`."""
    others = [j for j in range(num_agents) if j != agent]
    own = ["velocity_x", "velocity_y", "position_x", "position_y"]
    landmarks = [f"landmark_{i}_{axis}" for i in range(num_agents) for axis in "xy"]
    positions = [f"agent_{j}_{axis}" for j in others for axis in "xy"]
    signals = [f"agent_{j}_signal_{word}" for j in others for word in range(2)]
    return tuple(own + landmarks + positions + signals)
