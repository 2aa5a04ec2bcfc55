"""Teams on native foraging with planted members (family D): every coalition is played, and the returns are the truth.

    v(C) = mean over a stored pool of episodes of the team return, members of C keeping their policy, the others the reference

All coalitions play the same episodes. Estimators are given episodes of this pool, drawn with replacement, so the pool's own Shapley
value is their exact truth; how far the pool is from the task itself is its standard error (`pool_error`).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...credit.base import all_coalitions
from ...credit.problems import Problem, make_problem
from ...credit.shapley import shapley_from_values
from ...envs.base import View
from ...envs.foraging import Foraging
from ...envs.randomness import EXPLORE, Clock, split, uniform
from ..policies import noop_policy, random_policy

_FIRST_SEED = 90_000_000
"""Of the pool's episodes: apart from all that a run plays."""
_COPIES = 4096


@dataclass(frozen=True)
class Planted:
    """A team by its members' policies, and what stands in for the absent ones."""

    family: str
    members: tuple[str, ...]
    """good (the scripted forager), half (the same with probability 1/2 each step, else random), random, noop."""
    reference: str

    @property
    def name(self) -> str:
        return f"foraging: {', '.join(self.members)}; reference {self.reference}"


TEAMS = (
    Planted("D1", ("good", "good", "half", "noop"), "noop"),
    Planted("D1", ("good", "half", "random", "noop"), "random"),
)


def make_task() -> Foraging:
    """Four players, three foods."""
    return Foraging(rows=8, cols=8, num_players=4, num_food=3, episode_limit=25)


def joint_action(env: Foraging, planted: Planted, members: Bool[Tensor, "env agent"], view: View, clock: Clock) -> Int[Tensor, "env agent"]:
    """Members act by their policy, the others by the reference. Numbers are drawn whether they are used or not; the forager, which
    is slow, is asked only where it acts."""
    noop = noop_policy(env.spec)(view, clock)
    at_random = random_policy(view, clock)
    action = at_random if planted.reference == "random" else noop
    alert = uniform(split(clock.key(EXPLORE), env.num_players)) < 0.5
    kind = {name: torch.tensor([member == name for member in planted.members]) for name in ("good", "half", "random", "noop")}
    forages = members & (kind["good"] | kind["half"] & alert)
    action = torch.where(members & kind["noop"], noop, action)
    action = torch.where(members & (kind["random"] | kind["half"]), at_random, action)
    action[forages] = env.scripted["forager"](view.obs[forages], view.available[forages])
    return action


@torch.no_grad()
def play_pool(planted: Planted, episodes: int, seed: int) -> tuple[Float[Tensor, "coalition episode"], Float[Tensor, " agent"], int]:
    """Returns of all coalitions on the same episodes, the full team's actions per agent (means per episode), and the env steps."""
    env = make_task()
    everything = all_coalitions(env.num_players)
    other = torch.tensor([member != planted.reference for member in planted.members])  # a member that is the reference changes nothing
    distinct, which = torch.unique(everything & other, dim=0, return_inverse=True)
    full = int(which[-1])
    numbers = _FIRST_SEED + seed * episodes + torch.arange(episodes)
    parts = [_play(env, planted, distinct, full, part) for part in numbers.split(max(1, _COPIES // len(distinct)))]
    returns, did, env_steps = zip(*parts, strict=True)
    return torch.cat(returns, 1)[which], torch.stack(did).sum(0) / episodes, sum(env_steps)


def _play(env: Foraging, planted: Planted, coalitions: Tensor, full: int, seeds: Tensor) -> tuple[Tensor, Tensor, int]:
    """(returns (coalition, episode), actions other than no-op of row `full`, env steps)."""
    members = coalitions.repeat_interleave(len(seeds), 0)  # (copy, agent)
    copies = len(members)
    state, view = env.reset(seeds.repeat(len(coalitions)))
    clock = Clock.start(seeds.repeat(len(coalitions)))
    returns, did = torch.zeros(copies, dtype=torch.float64), torch.zeros(copies, env.num_players, dtype=torch.float64)
    running, env_steps = torch.ones(copies, dtype=torch.bool), 0
    while running.any():
        action = joint_action(env, planted, members & running.unsqueeze(1), view, clock)
        did += (action != 0) & running.unsqueeze(1)
        state, step, view = env.step(state, action, autoreset=False)
        returns += step.reward * running
        env_steps += int(running.sum())
        running = running & ~(step.terminated | step.truncated)
        clock = clock.tick()
    return returns.view(len(coalitions), -1), did.view(len(coalitions), len(seeds), -1)[full].sum(0), env_steps


def pool_error(pool: Float[Tensor, "coalition episode"]) -> Float[Tensor, " agent"]:
    """Standard error of the pool's Shapley values as those of the task, episodes being paired."""
    return shapley_from_values(pool).std(1) / pool.shape[1] ** 0.5


def foraging_problems(seed: int, episodes: int) -> list[Problem]:
    """One problem a team; the name says how well the pool knows the task."""
    problems = []
    for planted in TEAMS:
        pool, did, _ = play_pool(planted, episodes, seed)
        name = f"{planted.name}; {episodes:,} episodes, +-{float(pool_error(pool).max()):.4f}"
        problems.append(make_problem(planted.family, name, pool.mean(1), pool=pool, actions=did, reference=planted.reference))
    return problems
