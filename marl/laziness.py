"""Who does not pull its weight: a team judged from paired episodes, cheapest question first.

    1  contract    do the same seeds give the same episodes? If not, differences are of independent episodes, and the report says so
    2  margin      what the team gains over its references; from it delta = m G_rho / n (credit/margin.py)
    3  pairs       each agent's effect, by e-processes that stop as soon as they are decided (credit/lazy.py)

Each stage plays episodes of its own seeds, and counts its env steps. `judge_team` takes any task and team; `find_lazy` takes a run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..credit.base import Reference
from ..credit.lazy import find_lazy as test_laziness
from ..credit.margin import Margin, measure_margin
from ..credit.verdict import Verdict
from ..envs.base import TeamEnv
from .errors import ConfigError
from .evaluate import LAZY_SEEDS, MARGIN_SEEDS, seeds_from
from .policies import Team
from .references import Stand, default_references, make_reference, names_of
from .run import Run, open_run
from .worlds import CONTRACT_EPISODES, Worlds, identical_to_reference, measure_choice, measure_effort

SEEDS_APART = 100_000
"""Episodes between the seeds of two calls with different `seed`."""
RULE = (
    "below the margin under every reference (intersection-union); above it under some reference (Bonferroni over references); "
    "Holm over agents on e-values, valid at every look"
)
"""How many claims at once keep their error rate."""


@dataclass(frozen=True)
class LazyReport:
    """One verdict per agent, with the margin they were judged by."""

    margin: Margin
    verdicts: tuple[Verdict, ...]
    env_steps: int
    """Env steps played, all stages together."""
    stages: dict[str, int]
    """Env steps of each stage, in order."""
    references: tuple[Reference, ...]
    paired: bool
    """Whether the same seeds give the same episodes."""
    alpha: float
    seed: int


def judge_team(
    env: TeamEnv,
    team: Team,
    *,
    stands: Sequence[Stand],
    margin: float = 0.25,
    max_pairs: int = 512,
    alpha: float = 0.05,
    margin_episodes: int = 256,
    seed: int = 0,
    return_range: tuple[float, float] | None = None,
    batch: int = 32,
    on_progress: Callable[[str], None] | None = None,
) -> LazyReport:
    """A verdict per agent by betting e-processes on paired episodes (credit/lazy.py says what each verdict claims).

    Args:
        env: the task.
        team: the agents, planted members included.
        stands: the references, with the policies that act them out; lazy needs evidence under every one of them.
        margin: fraction of an equal share of the team's gain below which an agent does not pull its weight.
        max_pairs: pairs per agent and reference after which the rest stay undecided.
        alpha: the chance of any false verdict of a kind, over all agents.
        margin_episodes: episodes on which the team's gain is measured first.
        seed: another number, other episodes (0 to 99).
        return_range: (lowest, highest) possible team return of an episode; default: what the task declares.
        batch: pairs between two looks at the evidence.
        on_progress: takes lines for people.

    Raises:
        ConfigError: what cannot be judged, and why.
    """
    spec, say = env.spec, on_progress or (lambda line: None)
    check_laziness(env, stands, margin, max_pairs, alpha, margin_episodes, seed, return_range)
    names, shift = names_of(stands), seed * SEEDS_APART
    known = spec.return_range if return_range is None else return_range
    policies = [stand.policy for stand in stands]
    worlds = Worlds(env, team, policies, return_range=known, stated=return_range is not None)
    seeds, stages = seeds_from(MARGIN_SEEDS + shift, margin_episodes), _Stages(worlds)
    paired = worlds.repeats(seeds[:CONTRACT_EPISODES])
    stages.close("contract")
    if not paired:
        say(UNPAIRED.format(task=spec.name))
    base = worlds.play(seeds, [])
    effort = measure_effort(base, spec)
    identical = identical_to_reference(team, spec, names, effort, policies)
    if bool(identical.all(0).any()):
        same = names[int(identical.all(0).nonzero()[0])]
        raise ConfigError(
            f'every agent of this team acts just as the reference "{same}" does, so replacing one changes nothing',
            remedy="name another reference with --reference, or train longer",
        )
    measured = measure_margin(
        base.returns, worlds.all_replaced(seeds), num_agents=spec.num_agents, names=names, fraction=margin, return_range=known
    )
    stages.close("margin")
    noop = spec.noop or (None,) * spec.num_agents
    idle = torch.tensor([[name == "noop" and action is not None for name in names] for action in noop])
    verdicts = test_laziness(
        lambda agents, episodes: worlds.differences(agents, LAZY_SEEDS + shift + episodes),
        measured,
        effort=effort,
        idle_references=idle,
        identical=lambda: identical,
        has_choice=measure_choice(base),
        names=spec.agents,
        alpha=alpha,
        batch=batch,
        max_pairs=max_pairs,
        report=on_progress,
    )
    stages.close("pairs")
    references = tuple(stand.reference for stand in stands)
    return LazyReport(measured, verdicts, worlds.env_steps, stages.env_steps, references, paired, alpha, seed)


UNPAIRED = (
    "{task}: the same seed does not give the same episode, so no two episodes are paired. Differences of independent episodes are "
    "judged instead: the verdicts keep their error rates, but take more pairs"
)


class _Stages:
    """Env steps by stage."""

    def __init__(self, worlds: Worlds):
        self.worlds, self.env_steps = worlds, {}

    def close(self, name: str) -> None:
        self.env_steps[name] = self.worlds.env_steps - sum(self.env_steps.values())


def check_laziness(
    env: TeamEnv,
    stands: Sequence[Stand],
    margin: float,
    max_pairs: int,
    alpha: float,
    margin_episodes: int,
    seed: int,
    return_range: tuple[float, float] | None,
) -> None:
    """ConfigError for what cannot be judged, before anything is played."""
    if env.spec.num_agents < 2:
        raise ConfigError(f"{env.spec.name} has one agent: laziness is about one agent among teammates")
    if not stands:
        raise ConfigError("no reference: say what an agent is compared with, such as random")
    if not 0 < margin < 1:
        raise ConfigError(f"--margin {margin} must lie between 0 and 1: it is a fraction of an equal share (0.25: a quarter of one)")
    if not 0 <= seed < 100:
        raise ConfigError(f"--seed {seed} must lie between 0 and 99")
    if margin_episodes < 2:
        raise ConfigError(f"margin_episodes {margin_episodes} gives no interval: use at least 2 (256 is a good start)")
    left = SEEDS_APART - margin_episodes
    if not 2 <= max_pairs <= left:
        few = "one pair is no evidence" if max_pairs < 2 else f"the {SEEDS_APART:,} episode seeds of one --seed would not be enough"
        raise ConfigError(f"--max-pairs {max_pairs} must lie between 2 and {left}: {few}")
    if not 0 < alpha < 1:
        raise ConfigError(f"alpha {alpha} must lie between 0 and 1: it is the chance of a false verdict (0.05)")
    if return_range is not None and not return_range[0] < return_range[1]:
        low, high = return_range
        raise ConfigError(f"--return-range {low:g},{high:g}: the lowest possible team return must be below the highest")


def find_lazy(
    run: Run | str,
    *,
    margin: float = 0.25,
    references: Sequence[str] | None = None,
    max_pairs: int = 512,
    alpha: float = 0.05,
    margin_episodes: int = 256,
    seed: int = 0,
    return_range: tuple[float, float] | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> LazyReport:
    """`judge_team` of a run's team.

    Args:
        run: a run, its folder or its name.
        references: by name (references.py); default: noop (where every agent has one) and random.
        margin, max_pairs, alpha, margin_episodes, seed, return_range, on_progress: as `judge_team`.
    """
    run = open_run(run)
    options = {"margin": margin, "max_pairs": max_pairs, "alpha": alpha, "margin_episodes": margin_episodes, "seed": seed}
    names = tuple(references) if references else default_references(run.env.spec)
    stands = [make_reference(name, run) for name in names]
    return judge_team(run.env, run.team, stands=stands, **options, return_range=return_range, on_progress=on_progress)
