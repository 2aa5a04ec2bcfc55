"""The switch-off credit matrix of a run, from simulation: which agent earned how much at which step of real episodes.

At a kept moment t of an episode its state is copied; in each copy the agents of one coalition S keep their policies (and their
memories) and the others follow the reference from there on. The mean return of such continuations is V_S(s_t), and

    C[t, i] = Shapley_i(V_.(s_t)) - gamma^m Shapley_i(V_.(s_{t+m}))

is the switch-off matrix (credit/switch_off.py) of the block [t, t + m): its rewards are the same for every coalition. A column adds up
to the agent's Shapley value of V_.(s_0), the whole to V_N(s_0) - V_empty(s_0): in every rollout, not only on average. V is 0 after the
last step of an episode, be it terminated or truncated: the return is counted up to the episode's end.

Rollout r draws its luck from (episode, r, step): the same for every coalition and every moment, so an agent, or (undiscounted) a step,
that changes nothing has exactly 0. Standard errors are over rollouts, of whole matrices.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..credit.base import all_coalitions
from ..credit.sampling import draw
from ..credit.shapley import shapley_from_values
from ..envs.base import TeamEnv
from ..envs.native import NativeEnv
from .errors import ConfigError
from .evaluate import CREDIT_SEEDS, copies_at_once, seeds_from
from .policies import Override, Policy, Team
from .references import make_reference
from .run import Run, open_run
from .situations import Played, play_on, record, select, starts, with_luck

LARGEST_EXACT = 6
"""Agents up to which every coalition is played; above, each rollout draws its own orders (credit/sampling.py, rings)."""


@dataclass(frozen=True)
class SwitchOff:
    """Credit by block of steps and agent, along episodes as the team plays them. What lies after an episode's end is 0."""

    matrix: Float[Tensor, "episode moment agent"]
    """C of the block of `every` steps that begins at a moment."""
    error: Float[Tensor, "episode moment agent"]
    """Standard errors over rollouts; 0 where all rollouts agree, which of a rare decisive event they may do by chance."""
    moments: Int[Tensor, " moment"]
    """The step at which each block begins."""
    rewards: Float[Tensor, "episode moment"]
    """What the team was paid in each block, discounted to its first step."""
    length: Int[Tensor, " episode"]
    """Env steps of each episode."""
    truncated: Bool[Tensor, " episode"]
    coalitions: Bool[Tensor, "coalition agent"]
    """Whose values are kept: all 2^n coalitions in the order of `all_coalitions`, or nobody and everybody where others are sampled."""
    values: Float[Tensor, "coalition episode moment"]
    """V_S at each moment, mean over rollouts."""
    value_error: Float[Tensor, "coalition episode moment"]
    credit: Float[Tensor, "episode agent"]
    """Each agent's discounted column sum: its Shapley value of V_.(s_0) in that episode."""
    credit_error: Float[Tensor, "episode agent"]
    total: Float[Tensor, " episode"]
    """V_N(s_0) - V_empty(s_0), to which the credits of an episode add up."""
    total_error: Float[Tensor, " episode"]
    seeds: Int[Tensor, " episode"]
    reference: str
    estimand: str
    unit: str
    coalitions_used: str
    """Every coalition, or how they were sampled."""
    resampled: str
    """What differs between the rollouts of one moment, and what does not."""
    rollouts: int
    every: int
    gamma: float
    env_steps: int
    """Env steps played, of the episodes and of all continuations."""

    def blocks(self, episode: int) -> int:
        """How many rows of an episode are real."""
        return int((self.moments < self.length[episode]).sum())


@dataclass(frozen=True)
class Plan:
    """Which coalitions each rollout plays, and what it makes of their values."""

    coalitions: Bool[Tensor, "rollout coalition agent"]
    combine: tuple[Callable[[Tensor], Tensor], ...]
    """Per rollout: values (coalition, *batch) -> Shapley values (agent, *batch)."""


def measure_switch_off(
    run: Run | str,
    *,
    reference: str,
    episodes: int = 4,
    rollouts: int = 64,
    every: int = 1,
    gamma: float = 1.0,
    seed: int = 0,
    on_progress: Callable[[str], None] | None = None,
) -> SwitchOff:
    """The switch-off matrix of the first `episodes` credit episodes of a run.

    Args:
        run: a run, its folder or its name.
        reference: noop, random, average, or a peer or checkpoint without recurrent networks (references.py).
        episodes: along which credit is measured.
        rollouts: continuations per coalition and moment.
        every: keep every m-th step; a row is then the credit of m steps together.
        gamma: discount of the return; 1 for the plain return of an episode.
        seed: of the rollouts' luck, and of the sampled orders (teams above six).
    """
    run = open_run(run)
    check_switch_off(episodes=episodes, rollouts=rollouts, every=every, gamma=gamma)
    env, team, n = run.env, run.team, run.env.spec.num_agents
    stand = make_reference(reference, run)
    policy, reference = stand.policy, stand.reference.name
    seeds = seeds_from(CREDIT_SEEDS, episodes)
    played = record(env, team, seeds, every)
    plan = make_plan(n, rollouts, seed)
    values, env_steps = value_table(env, team, policy, played, plan, every=every, gamma=gamma, seed=seed, on_progress=on_progress)
    matrix = _matrices(values, plan, gamma**every)
    discount = gamma ** (every * torch.arange(len(matrix), dtype=torch.float64))
    credit = torch.einsum("t,taer->aer", discount, matrix)
    exact = n <= LARGEST_EXACT
    kept = values[:, :-1] if exact else values[-2:, :-1]
    total = values[-1, 0] - (values[0, 0] if exact else values[-2, 0])
    again = (
        "the task and of the agents who draw"
        if isinstance(env, NativeEnv)
        else "the agents who draw, while what the task itself draws is copied from the episode played and not drawn again"
    )
    return SwitchOff(
        matrix=_mean(matrix).permute(2, 0, 1),
        error=_error(matrix).permute(2, 0, 1),
        moments=torch.arange(0, len(played.reward), every),
        rewards=_block_rewards(played.reward, every, gamma),
        length=played.length,
        truncated=played.truncated,
        coalitions=all_coalitions(n) if exact else plan.coalitions[0, -2:],
        values=_mean(kept).movedim(2, 1),
        value_error=_error(kept).movedim(2, 1),
        credit=_mean(credit).T,
        credit_error=_error(credit).T,
        total=_mean(total),
        total_error=_error(total),
        seeds=seeds,
        reference=reference,
        estimand="how much of what an agent still has to win was won in this step: its Shapley value of V_. before the step minus that "
        f"after it; V_S is the return expected from there on if only the agents in S keep their policies and the others follow {reference}",
        unit="team return" if gamma == 1 else f"team return discounted by {gamma:g}, to the step of the row",
        coalitions_used=f"all {2**n} coalitions" if exact else f"{plan.coalitions.shape[1]} sampled coalitions a rollout (rings)",
        resampled=f"{rollouts} rollouts of every moment and coalition, with new luck of {again}; the same luck for all coalitions and "
        "moments of an episode; standard errors over rollouts",
        rollouts=rollouts,
        every=every,
        gamma=gamma,
        env_steps=int(played.length.sum()) + env_steps,
    )


def check_switch_off(*, episodes: int, rollouts: int, every: int, gamma: float) -> None:
    """ConfigError for what cannot be measured."""
    for name, value, least, why in (
        ("episodes", episodes, 1, "credit is measured along episodes"),
        ("rollouts", rollouts, 2, "fewer give no standard error (64 is a good start)"),
        ("every", every, 1, "it keeps every m-th step"),
    ):
        if value < least:
            raise ConfigError(f"--{name} {value} must be at least {least}: {why}")
    if not 0 < gamma <= 1:
        raise ConfigError(f"--gamma {gamma:g} must lie above 0 and not above 1")


def make_plan(num_agents: int, rollouts: int, seed: int) -> Plan:
    """All coalitions in every rollout; above `LARGEST_EXACT` agents a ring of its own for each."""
    if num_agents <= LARGEST_EXACT:
        return Plan(all_coalitions(num_agents).expand(rollouts, -1, -1), (shapley_from_values,) * rollouts)
    generator = torch.Generator().manual_seed(seed)
    draws = [draw("rings", num_agents, generator) for _ in range(rollouts)]
    return Plan(torch.stack([one.coalitions for one in draws]), tuple(one.combine for one in draws))


@torch.no_grad()
def value_table(
    env: TeamEnv,
    team: Team,
    policy: Policy,
    played: Played,
    plan: Plan,
    *,
    every: int,
    gamma: float,
    seed: int,
    on_progress: Callable[[str], None] | None = None,
) -> tuple[Float[Tensor, "coalition moment episode rollout"], int]:
    """One continuation's return per coalition, kept moment, episode and rollout, the moment after the last being 0; and env steps."""
    rollouts, coalitions, _ = plan.coalitions.shape
    blocks = -(-len(played.reward) // every)
    values = torch.zeros(coalitions, blocks + 1, len(played.length), rollouts, dtype=torch.float64)
    size, env_steps, done = copies_at_once(env), 0, 0
    wanted = int((-(-played.length // every)).sum()) * coalitions * rollouts
    for where, rows, situation in starts(env, played, every):
        for forks in torch.arange(len(where) * coalitions * rollouts).split(size):
            place, which, rollout = forks // (coalitions * rollouts), forks // rollouts % coalitions, forks % rollouts
            start = with_luck(select(env, situation, rows[place]), seed, rollout)
            total, steps = play_on(env, team, start, Override(policy, ~plan.coalitions[rollout, which]), gamma)
            block, episode = where[place].unbind(1)
            values[which, block, episode, rollout] = total
            env_steps, done = env_steps + steps, done + len(forks)
            if on_progress is not None:
                on_progress(f"switch-off: {done:,} of {wanted:,} continuations")
    return values, env_steps


def _matrices(values: Float[Tensor, "coalition moment episode rollout"], plan: Plan, gamma: float) -> Tensor:
    """Every rollout's switch-off matrix, (block, agent, episode, rollout)."""
    each = [combine(values[..., rollout]) for rollout, combine in enumerate(plan.combine)]
    shapley = torch.stack(each, -1).movedim(0, 1)  # (moment, agent, episode, rollout)
    return shapley[:-1] - gamma * shapley[1:]


def _block_rewards(reward: Float[Tensor, "time episode"], every: int, gamma: float) -> Float[Tensor, "episode moment"]:
    padded = torch.nn.functional.pad(reward, (0, 0, 0, -len(reward) % every)).unflatten(0, (-1, every))
    return torch.einsum("bke,k->eb", padded, gamma ** torch.arange(every, dtype=torch.float64))


def _mean(samples: Float[Tensor, "*batch rollout"]) -> Float[Tensor, "*batch"]:
    return samples.mean(-1)


def _error(samples: Float[Tensor, "*batch rollout"]) -> Float[Tensor, "*batch"]:
    return samples.std(-1) / samples.shape[-1] ** 0.5
