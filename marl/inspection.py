"""Reading a trained team: who earned what, and who does not pull its weight, from paired episodes without exploration.

An absent agent stays in the world and follows a named reference (no-op, or uniform over its available actions); the same
episode number means the same seeds and random numbers for every coalition. Estimators and tests live in `credit/`;
this file gives them episodes to play.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..credit.base import Credit, EpisodeGame
from ..credit.difference import leave_one_out
from ..credit.lazy import find_lazy as test_laziness
from ..credit.margin import Margin, measure_margin
from ..credit.shapley import shapley
from ..credit.verdict import Verdict
from ..envs.base import TeamEnv, TeamSpec
from .critic_credit import measure_critic_credit
from .critic_episodes import valued_team
from .errors import ConfigError
from .evaluate import CREDIT_SEEDS, LAZY_SEEDS, MARGIN_SEEDS, Episodes, play, seeds_from
from .policies import Override, Policy, Team, make_policy
from .run import Run, open_run

METHODS: dict[str, str] = {
    "difference": "leave-one-out: what the team loses when one agent alone follows the reference",
    "shapley": "Shapley value: an agent's average contribution over all orders of joining the team",
    "critic": "what single decisions are worth by the run's own critic, with that critic's calibration (no agent is ever replaced)",
}
"""Methods of `measure_credit`, one line each."""
REFERENCES: dict[str, str] = {"noop": "the action that does nothing", "random": "uniform over the available actions"}


SEEDS_APART = 100_000
"""Episodes between the seeds of two calls of `find_lazy` with different `seed`."""


@dataclass(frozen=True)
class LazyReport:
    """One verdict per agent, with the margin they were judged by."""

    margin: Margin
    verdicts: tuple[Verdict, ...]
    env_steps: int
    """Env steps played for the margin and the verdicts."""


def default_references(spec: TeamSpec) -> tuple[str, ...]:
    """No-op, where every agent has one, and random."""
    has_noop = spec.noop is not None and all(action is not None for action in spec.noop)
    return ("noop", "random") if has_noop else ("random",)


def reference_policy(name: str, spec: TeamSpec, agents: Bool[Tensor, " agent"] | None = None) -> Policy:
    """A reference by name, for `agents` (default: all); ConfigError lists what there is."""
    if name not in REFERENCES:
        raise ConfigError(f'no reference "{name}": use one of {", ".join(REFERENCES)}')
    try:
        return make_policy(name, spec, {}, agents)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def episode_game(env: TeamEnv, team: Team, reference: str, *, first_seed: int = CREDIT_SEEDS) -> EpisodeGame:
    """The team as a coalition game: members of a coalition keep their policy, the others follow the reference."""
    spec = env.spec
    policy = reference_policy(reference, spec)

    def simulate(coalitions: Bool[Tensor, "coalition agent"], episodes: Int[Tensor, " episode"]) -> tuple[Tensor, int]:
        count, number = len(coalitions), len(episodes)
        absent = (~coalitions).repeat_interleave(number, 0)
        played = play(env, team, (first_seed + episodes).repeat(count), [Override(policy, absent)])
        return played.returns.view(count, number), played.env_steps

    return EpisodeGame(simulate, spec.num_agents)


def check_credit(run: Run, methods: Sequence[str], references: Sequence[str], episodes: int, forks: int | None = None) -> None:
    """ConfigError for what cannot be measured on this run, before anything is played."""
    for method in methods:
        if method not in METHODS:
            raise ConfigError(f'no credit method "{method}": use one of {", ".join(METHODS)}')
    if episodes < 2:
        raise ConfigError(f"--episodes {episodes} gives no interval: use at least 2 (64 is a good start)")
    if forks is not None and (forks < 0 or "critic" not in methods):
        wrong = "must be at least 0" if forks < 0 else f"needs --method critic: {', '.join(methods)} replace agents for whole episodes"
        raise ConfigError(f"--forks {forks} {wrong}")
    learns = None
    if "critic" in methods:
        valued_team(run)
        learns = run.team.learns(run.env.spec.num_agents)
    for name in references:
        reference_policy(name, run.env.spec, learns if set(methods) == {"critic"} else None)


def measure_credit(
    run: Run | str, *, method: str = "shapley", reference: str | None = None, episodes: int = 64, seed: int = 0, forks: int | None = None
) -> Credit:
    """Each agent's credit with 95% intervals.

    In units of undiscounted team return; from the critic, of discounted team return per decision (a `CriticCredit`, which also says
    whether that critic is to be believed).

    Args:
        run: a run, its folder or its name.
        method: shapley (exact up to five agents, position-balanced sampling above), difference or critic.
        reference: noop or random; default: noop where every agent has one.
        episodes: paired episodes.
        seed: of the sampled orders (teams above five), and of the forks.
        forks: critic only: actions per agent that are replaced and played on; default: some on native tasks, else none.
    """
    run = open_run(run)
    spec = run.env.spec
    name = reference or default_references(spec)[0]
    check_credit(run, [method], [name], episodes, forks)
    if method == "critic":
        return measure_critic_credit(run, reference=name, episodes=episodes, forks=forks, seed=seed)
    game = episode_game(run.env, run.team, name)
    bound = None if spec.return_range is None else spec.return_range[1] - spec.return_range[0]
    if method == "difference":
        return leave_one_out(game, spec.num_agents, episodes=episodes, bound=bound, reference=name)
    generator = torch.Generator().manual_seed(seed)
    return shapley(game, spec.num_agents, episodes=episodes, bound=bound, reference=name, generator=generator)


def find_lazy(
    run: Run | str,
    *,
    margin: float = 0.25,
    references: Sequence[str] | None = None,
    max_pairs: int = 512,
    alpha: float = 0.05,
    margin_episodes: int = 256,
    seed: int = 0,
    on_progress: Callable[[str], None] | None = None,
) -> LazyReport:
    """A verdict per agent by betting e-processes on paired episodes (credit/lazy.py says what each verdict claims).

    Args:
        run: a run, its folder or its name.
        margin: fraction of an equal share of the team's gain below which an agent does not pull its weight.
        references: default: noop (where every agent has one) and random; lazy needs evidence under every one of them.
        max_pairs: pairs per agent and reference after which the rest stay undecided.
        alpha: the chance of any false verdict of a kind, over all agents.
        margin_episodes: episodes on which the team's gain is measured first.
        seed: another number, other episodes (0 to 99).
    """
    run = open_run(run)
    env, team, spec = run.env, run.team, run.env.spec
    if spec.num_agents < 2:
        raise ConfigError(f"{spec.name} has one agent: laziness is about one agent among teammates")
    if not 0 < margin < 1:
        raise ConfigError(f"--margin {margin} must lie between 0 and 1: it is a fraction of an equal share (0.25: a quarter of one)")
    if not 0 <= seed < 100:
        raise ConfigError(f"--seed {seed} must lie between 0 and 99")
    if not 2 <= max_pairs <= SEEDS_APART - margin_episodes:
        raise ConfigError(f"--max-pairs {max_pairs} must lie between 2 and {SEEDS_APART - margin_episodes}")
    if not 0 < alpha < 1:
        raise ConfigError(f"alpha {alpha} must lie between 0 and 1: it is the chance of a false verdict (0.05)")
    names = tuple(references) if references else default_references(spec)
    policies = [reference_policy(name, spec) for name in names]
    worlds = Worlds(env, team, policies)
    shift = seed * SEEDS_APART
    seeds = seeds_from(MARGIN_SEEDS + shift, margin_episodes)
    base = worlds.play(seeds, [])
    measured = measure_margin(
        base.returns, worlds.all_replaced(seeds), num_agents=spec.num_agents, names=names, fraction=margin, return_range=spec.return_range
    )
    effort = measure_effort(base, spec)
    verdicts = test_laziness(
        lambda agents, episodes: worlds.differences(agents, LAZY_SEEDS + shift + episodes),
        measured,
        effort=effort,
        identical=lambda: identical_to_reference(team, spec, names, effort),
        names=spec.agents,
        alpha=alpha,
        max_pairs=max_pairs,
        report=on_progress,
    )
    return LazyReport(measured, verdicts, worlds.env_steps)


class Worlds:
    """Plays worlds in which agents are replaced, and counts the env steps."""

    def __init__(self, env: TeamEnv, team: Team, policies: Sequence[Policy]):
        self.env, self.team, self.policies = env, team, policies
        self.env_steps = 0

    def play(self, seeds: Int[Tensor, " episode"], overrides: Sequence[Override]) -> Episodes:
        played = play(self.env, self.team, seeds, overrides)
        self.env_steps += played.env_steps
        return played

    def all_replaced(self, seeds: Int[Tensor, " episode"]) -> Float[Tensor, "reference episode"]:
        """Returns when everybody follows each reference."""
        everyone = torch.ones(self.env.spec.num_agents, dtype=torch.bool)
        return torch.stack([self.play(seeds, [Override(policy, everyone)]).returns for policy in self.policies])

    def gains(self, seeds: Int[Tensor, " episode"]) -> Float[Tensor, "reference episode"]:
        """R_k(pi) - R_k(rho, ..., rho)."""
        return self.play(seeds, []).returns - self.all_replaced(seeds)

    def differences(self, agents: Sequence[int], seeds: Int[Tensor, " episode"]) -> Float[Tensor, "agent reference episode"]:
        """R_k(pi) - R_k(rho_i, pi_-i) for each chosen agent, reference and episode, all worlds played side by side."""
        worlds = [(agent, which) for agent in agents for which in range(len(self.policies))]
        number, num_agents = len(seeds), self.env.spec.num_agents
        masks = torch.zeros(len(self.policies), len(worlds) + 1, num_agents, dtype=torch.bool)
        for row, (agent, which) in enumerate(worlds, start=1):  # row 0 is the team itself
            masks[which, row, agent] = True
        overrides = [Override(policy, mask.repeat_interleave(number, 0)) for policy, mask in zip(self.policies, masks, strict=True)]
        returns = self.play(seeds.repeat(len(worlds) + 1), overrides).returns.view(-1, number)
        return (returns[0] - returns[1:]).view(len(agents), len(self.policies), number)


def measure_effort(episodes: Episodes, spec: TeamSpec) -> list[float | None]:
    """Per agent, P(an action other than its no-op | it was alive and had a choice); None without a no-op or a choice."""
    totals = episodes.choices.sum(0)
    effort = ((episodes.effort * episodes.choices).sum(0) / totals.clamp(min=1)).tolist()
    noop = spec.noop or (None,) * spec.num_agents
    return [value if action is not None and total > 0 else None for value, action, total in zip(effort, noop, totals, strict=True)]


def identical_to_reference(
    team: Team, spec: TeamSpec, references: Sequence[str], effort: Sequence[float | None]
) -> Bool[Tensor, "agent reference"]:
    """True where an agent acts as the reference does: planted with that very policy, or seen to do nothing at all."""
    same = [[team.planted.get(agent) == name or (name == "noop" and did == 0) for name in references]
            for agent, did in zip(spec.agents, effort, strict=True)]  # fmt: skip
    return torch.tensor(same)
