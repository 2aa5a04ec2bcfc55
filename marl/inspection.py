"""Reading a trained team: who earned what, from paired episodes without exploration (laziness.py: who does not pull its weight).

An absent agent stays in the world and follows a named reference (references.py); the same episode number means the same seeds and
random numbers for every coalition. Estimators live in `credit/`; this file gives them episodes to play.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..credit.banzhaf import banzhaf
from ..credit.base import LARGEST_EXACT, Credit, EpisodeGame
from ..credit.difference import leave_one_out
from ..credit.interactions import Interactions, measure_interactions
from ..credit.shapley import shapley
from ..envs.base import TeamEnv
from .critic_credit import measure_critic_credit
from .critic_episodes import valued_team
from .errors import ConfigError, suggest
from .evaluate import CREDIT_SEEDS, play
from .mixer_reading import How, measure_mixer_credit, mixer_of
from .policies import Override, Team
from .references import Stand, check_reference, default_references, make_reference, reference_of
from .run import Run, open_run

METHODS: dict[str, str] = {
    "shapley": "Shapley value: an agent's average contribution over all orders of joining the team",
    "difference": "leave-one-out: what the team loses when one agent alone follows the reference",
    "banzhaf": "Banzhaf value: an agent's contribution averaged over all sets of teammates alike; not a split of the total",
    "critic": "what single decisions are worth by the run's own critic, with that critic's calibration (no agent is ever replaced)",
    "mixer": "Shapley value over the inputs of the run's own mixer: what single decisions are worth by the learned Q_tot",
    "mixer-ig": "the same by integrated gradients over the mixer's inputs",
}
"""Methods of `measure_credit`, one line each."""
EPISODE_METHODS = ("shapley", "difference", "banzhaf")
"""Those that replace agents and play episodes; the others read what the run has learned."""
MIXER_METHODS: dict[str, How] = {"mixer": "shapley", "mixer-ig": "integrated-gradients"}


def episode_game(env: TeamEnv, team: Team, reference: Stand | str, *, first_seed: int = CREDIT_SEEDS, from_step: int = 0) -> EpisodeGame:
    """The team as a coalition game: members of a coalition keep their policy, the others follow the reference (from `from_step` on)."""
    policy = (reference_of(reference, env, team) if isinstance(reference, str) else reference).policy

    def simulate(coalitions: Bool[Tensor, "coalition agent"], episodes: Int[Tensor, " episode"]) -> tuple[Tensor, int]:
        count, number = len(coalitions), len(episodes)
        absent = (~coalitions).repeat_interleave(number, 0)
        played = play(env, team, (first_seed + episodes).repeat(count), [Override(policy, absent, since=from_step)])
        return played.returns.view(count, number), played.env_steps

    return EpisodeGame(simulate, env.spec.num_agents)


def check_credit(
    run: Run, methods: Sequence[str], references: Sequence[str], episodes: int, forks: int | None = None, from_step: int = 0
) -> None:
    """ConfigError for what cannot be measured on this run, before anything is played."""
    for method in methods:
        if method not in METHODS:
            raise ConfigError(f'no credit method "{method}".{suggest(method, METHODS)} There are: {", ".join(METHODS)}')
    if episodes < 2:
        raise ConfigError(f"--episodes {episodes} gives no interval: use at least 2 (64 is a good start)")
    if forks is not None and (forks < 0 or "critic" not in methods):
        wrong = "must be at least 0" if forks < 0 else f"needs --method critic: {', '.join(methods)} replace agents for whole episodes"
        raise ConfigError(f"--forks {forks} {wrong}")
    learned = [method for method in methods if method not in EPISODE_METHODS]
    if from_step < 0 or (from_step and learned):
        wrong = (
            "must be at least 0" if from_step < 0 else f"is for {', '.join(EPISODE_METHODS)}; {', '.join(learned)} read single decisions"
        )
        raise ConfigError(f"--from-step {from_step} {wrong}")
    spec, learns = run.env.spec, None
    if "banzhaf" in methods and spec.num_agents > LARGEST_EXACT:
        raise ConfigError(
            f"banzhaf enumerates all 2^{spec.num_agents} coalitions of this team; use shapley, which is sampled above 5 agents"
        )
    if "critic" in methods:
        valued_team(run)
        learns = run.team.learns(spec.num_agents)
    if any(method in MIXER_METHODS for method in methods):
        mixer_of(run)
    for name in references:
        check_reference(name, spec, learns if set(methods) == {"critic"} else None)
        if learned and name not in ("noop", "random"):
            raise ConfigError(f"{', '.join(learned)} know single actions, so their reference is noop or random, not {name}")


def measure_credit(
    run: Run | str,
    *,
    method: str = "shapley",
    reference: str | Stand | None = None,
    episodes: int = 64,
    seed: int = 0,
    forks: int | None = None,
    from_step: int = 0,
) -> Credit:
    """Each agent's credit with 95% intervals.

    In units of undiscounted team return; critic and mixer: of discounted team return per decision. The critic's is a `CriticCredit`,
    which also says whether that critic is to be believed.

    Args:
        run: a run, its folder or its name.
        method: one of METHODS. Shapley values are exact up to five agents, position-balanced samples above.
        reference: noop, random, average, peer:AGENT or RUN@ENV_STEPS (references.py); default: noop where every agent has one.
        episodes: paired episodes.
        seed: of the sampled orders (teams above five), and of the forks.
        forks: critic only: actions per agent that are replaced and played on; default: some on native tasks, else none.
        from_step: absent agents follow the reference from this step of the episode on: what the agent earns from there to the end.
    """
    run = open_run(run)
    spec = run.env.spec
    chosen = reference or default_references(spec)[0]
    name = chosen if isinstance(chosen, str) else chosen.reference.name
    check_credit(run, [method], [chosen] if isinstance(chosen, str) else [], episodes, forks, from_step)
    if method == "critic":
        found: Credit = measure_critic_credit(run, reference=name, episodes=episodes, forks=forks, seed=seed)
    elif method in MIXER_METHODS:
        found = measure_mixer_credit(run, reference=name, episodes=episodes, seed=seed, how=MIXER_METHODS[method])
    else:
        stand = make_reference(chosen, run) if isinstance(chosen, str) else chosen
        name = stand.reference.name
        game = episode_game(run.env, run.team, stand, from_step=from_step)
        bound = None if spec.return_range is None else spec.return_range[1] - spec.return_range[0]
        shared: dict[str, Any] = {"episodes": episodes, "bound": bound, "reference": name}
        if method == "shapley":
            found = shapley(game, spec.num_agents, generator=torch.Generator().manual_seed(seed), **shared)
        else:
            found = {"difference": leave_one_out, "banzhaf": banzhaf}[method](game, spec.num_agents, **shared)
        later = f"from step {from_step} on: " if from_step else ""
        return replace(found, estimand=later + found.estimand, reference_digest=stand.reference.digest)
    return replace(found, reference_digest=make_reference(name, run).reference.digest)


def measure_pairs(run: Run | str, *, reference: str | Stand | None = None, episodes: int = 64) -> Interactions:
    """Which agents stand in for each other (below 0) and which need each other (above 0); teams of up to 12, all 2^n coalitions played."""
    run = open_run(run)
    spec = run.env.spec
    if spec.num_agents > LARGEST_EXACT:
        raise ConfigError(f"interactions are computed from all 2^{spec.num_agents} coalitions: teams of up to {LARGEST_EXACT} agents")
    chosen = reference or default_references(spec)[0]
    check_credit(run, [], [chosen] if isinstance(chosen, str) else [], episodes)
    stand = make_reference(chosen, run) if isinstance(chosen, str) else chosen
    bound = None if spec.return_range is None else spec.return_range[1] - spec.return_range[0]
    game = episode_game(run.env, run.team, stand)
    return measure_interactions(game, episodes=episodes, bound=bound, reference=stand.reference.name)
