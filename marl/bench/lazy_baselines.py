"""The baselines of credit/baselines.py, fed from a planted team's episodes.

Those that count actions or ask for influence get all the episodes of the margin, more than our own test sees; the tests of differences get
16 and 64 pairs. A mixer is fitted to the coalition's own table (no learner would know it better), and COMA's critic is that table.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...credit.baselines import (
    Suspicion,
    action_entropy,
    laies_index,
    mean_coma_advantage,
    mixer_gradient,
    noop_frequency,
    percentile_bootstrap,
    t_test,
)
from ...envs.base import View
from ...envs.coalition import CoalitionTask
from ...envs.native import NativeEnv
from ...envs.randomness import Clock
from ..evaluate import seeds_from
from ..policies import team_action
from .credit_learned import fit
from .planted import PlantedTeam
from .planted_pool import Pool

GIVEN = (16, 64)
"""Pairs."""
_SEEDS, _EPISODES, _SAMPLES = 150_000_000, 32, 512


class Baselines:
    """All of them for one team; what does not depend on the run is worked out once."""

    def __init__(self, planted: PlantedTeam, pool: Pool, seed: int):
        self.pool, self.seed = pool, seed
        noops = [0.0 if effort is None else 1 - effort for effort in pool.effort]
        self.fixed: dict[str, Suspicion] = {
            "no-op frequency": noop_frequency(torch.tensor(noops)),
            "action entropy": action_entropy(pool.taken),
        }
        env = planted.env
        if isinstance(env, CoalitionTask):
            self.fixed |= _of_table(planted, env, seed)
        if isinstance(env, NativeEnv) and (planted.external is not None or isinstance(env, CoalitionTask)):
            self.fixed["LAIES index"] = laies_index(*influence_samples(planted, seed))

    def at(self, number: int, margin: float) -> dict[tuple[str, int | None], Suspicion]:
        """What each says of the agents in one run, by (name, pairs given)."""
        found: dict[tuple[str, int | None], Suspicion] = {(name, None): said for name, said in self.fixed.items()}
        delta, seen = self.pool.margin_of(number, margin).delta, self.pool.pairs_of(number)
        for pairs in GIVEN:
            generator = torch.Generator().manual_seed(self.seed * 100 + number)
            found["t-test", pairs] = t_test(seen[..., :pairs], delta)
            found["percentile bootstrap", pairs] = percentile_bootstrap(seen[..., :pairs], delta, generator=generator)
        return found


def _of_table(planted: PlantedTeam, env: CoalitionTask, seed: int) -> dict[str, Suspicion]:
    """Mixer gradient and COMA advantage, where the joint action's value is a table."""
    assert env.table is not None
    table, action = env.table.to(torch.float64), _actions(planted, _SAMPLES, seed)
    n = env.spec.num_agents
    bits, joint = 1 << torch.arange(n), (action << torch.arange(n)).sum(1, keepdim=True)
    fitted = fit(table, seed)
    q = fitted.utility.expand(len(action), n, 2).gather(-1, action.unsqueeze(-1)).squeeze(-1)
    values = torch.stack((table[joint & ~bits], table[joint | bits]), -1)  # (sample, agent, action)
    joins = action.to(torch.float64).mean(0)
    policy = torch.stack((1 - joins, joins), -1).expand(len(action), n, 2)
    return {
        "mixer gradient": mixer_gradient(fitted.of_inputs, q),
        "mean COMA advantage": mean_coma_advantage(values, policy, action),
    }


@torch.no_grad()
def _actions(planted: PlantedTeam, episodes: int, seed: int) -> Int[Tensor, "episode agent"]:
    """The team's first joint action in so many episodes."""
    seeds = seeds_from(_SEEDS + seed * 1000, episodes)
    _, view = planted.env.reset(seeds)
    return team_action(planted.team, view, planted.team.utility.initial_memory(episodes), Clock.start(seeds))[0]


@torch.no_grad()
def influence_samples(planted: PlantedTeam, seed: int) -> tuple[Float[Tensor, "sample feature"], Tensor, Tensor, Tensor]:
    """What came next in the team's episodes, and what would have with each other action of each agent: the arguments of `laies_index`.

    Real forks, with the same random numbers. Where the task has no state beside the agents', what comes next is the reward.
    """
    env, team = planted.env, planted.team
    seeds = seeds_from(_SEEDS + seed * 1000, _SAMPLES if env.spec.episode_limit == 1 else _EPISODES)
    n, actions = env.spec.num_agents, env.spec.num_actions
    state, view = env.reset(seeds)
    clock, memory = Clock.start(seeds), team.utility.initial_memory(len(seeds))
    running, parts = torch.ones(len(seeds), dtype=torch.bool), []
    while bool(running.any()):
        action, memory = team_action(team, view, memory, clock)
        forks = action[:, None, None].expand(-1, n, actions, n).clone()
        for agent in range(n):
            forks[:, agent, :, agent] = torch.where(view.available[:, agent], torch.arange(actions), action[:, agent, None])
        rows = torch.arange(len(seeds)).repeat_interleave(n * actions)
        _, other, _ = env.step(env.select(state, rows), forks.flatten(0, 2), autoreset=False)
        was, available = running, view.available
        state, step, view = env.step(state, action, autoreset=False)
        external, counterfactual = _external(planted, step.after, step.reward), _external(planted, other.after, other.reward)
        parts.append((external[was], counterfactual.unflatten(0, (len(seeds), n, actions))[was], available[was], action[was]))
        running = running & ~(step.terminated | step.truncated)
        clock = clock.tick()
    external, counterfactual, available, action = (torch.cat(values) for values in zip(*parts, strict=True))
    return external, counterfactual, available, action


def _external(planted: PlantedTeam, view: View, reward: Tensor) -> Float[Tensor, "sample feature"]:
    return reward.unsqueeze(-1) if planted.external is None else planted.external(view.state)
