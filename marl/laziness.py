"""Who does not pull its weight: a team judged from paired episodes, cheapest question first.

    1  contract    do the same seeds give the same episodes? If not, differences are of independent episodes, and the report says so
    2  margin      what the team gains over its references, on up to four times as many episodes where that is not shown; from it
                   delta = m G_rho / n (credit/margin.py)
    3  influence   does what it does change anything for others (influence.py)?
    4  pairs       each agent's effect, by e-processes that stop as soon as they are decided (credit/lazy.py)
    5  closer look only at agents of small effect: Shapley values, substitutes, and whether another would do better (closer_look.py)

Each stage plays episodes of its own seeds, and counts its env steps. `judge_team` takes any task and team; `find_lazy` takes a run.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..credit.base import Reference
from ..credit.classes import CloserLook
from ..credit.lazy import find_lazy as test_laziness
from ..credit.margin import Margin, measure_margin
from ..credit.verdict import Verdict
from ..envs.base import TeamEnv
from . import checkpoint as checkpoints
from .best_response import refuse_memory, train_best_response
from .closer_look import BEST_RESPONSE, HEADROOM_AT, INFLUENCE_AT, Respond, closer_look, pays_by_timeline
from .errors import ConfigError
from .evaluate import LAZY_SEEDS, LOOK_SEEDS, MARGIN_SEEDS, seeds_from
from .folder import read_metrics
from .headroom import default_candidates
from .influence import measure_influence
from .policies import Policy, StandIn, Team
from .references import Stand, default_references, make_reference, names_of
from .run import Run, open_run
from .worlds import CONTRACT_EPISODES, Worlds, acts_alike, identical_to_reference, measure_choice, measure_effort

SEEDS_APART = 100_000
"""Episodes between the seeds of two calls with different `seed`."""
MARGIN_LOOKS = (1, 2, 4)
"""The gain is measured on `margin_episodes`, and on so many times as many while it is not shown that the team beats every reference."""
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
    influence: tuple[float | None, ...]
    """Per agent, how often another action of it changes what comes next (influence.py); None where that cannot be measured."""
    candidates: tuple[str, ...]
    """Who was tried in an agent's place, by name; empty where nobody looked."""
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
    candidates: Mapping[str, Policy] | None = None,
    respond: Respond | None = None,
    pays: Callable[[int, Margin], bool] = lambda agent, margin: False,
    look: bool = True,
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
        alpha: the chance of any false verdict of a kind, over all agents. "Lazy" makes two claims, small effect and room to do better,
            each at this level.
        margin_episodes: episodes on which the team's gain is measured first; up to four times as many where it is not shown at once.
        seed: another number, other episodes (0 to 99).
        return_range: (lowest, highest) possible team return of an episode; default: what the task declares.
        candidates: policies that are tried in the place of an agent of small effect, by name; default: its teammates' and random.
        respond: trains one more for such an agent (best_response.py).
        pays: whether idling is known to pay for an agent.
        look: False: no closer look; then "lazy" may mean redundant or not needed, and the verdicts say so.
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
    seeds, stages = seeds_from(MARGIN_SEEDS + shift, MARGIN_LOOKS[-1] * margin_episodes), _Stages(worlds)
    paired = worlds.repeats(seeds[:CONTRACT_EPISODES])
    stages.close("contract")
    if not paired:
        say(UNPAIRED.format(task=spec.name))
    base = worlds.play(seeds[:margin_episodes], [])
    effort = measure_effort(base, spec)
    identical = identical_to_reference(team, spec, names, effort, policies)
    if bool(identical.all(0).any()):
        same = names[int(identical.all(0).nonzero()[0])]
        raise ConfigError(
            f'every agent of this team acts just as the reference "{same}" does, so replacing one changes nothing',
            remedy="name another reference with --reference, or train longer",
        )
    measured = _margin(worlds, base.returns, seeds, names, margin, known, say)
    stages.close("margin")
    influence: list[float | None] = [None] * spec.num_agents
    if look and paired and measured.problem is None:  # unpaired, chance would pass for influence
        influence, steps = measure_influence(env, team, LOOK_SEEDS + shift + INFLUENCE_AT)
        stages.add("influence", steps)
    tried = (default_candidates(env, team) if candidates is None else dict(candidates)) if look else {}

    def looked(agents: tuple[int, ...]) -> list[CloserLook]:
        stages.close("pairs")
        found = closer_look(
            env, team, agents, margin=measured, stands=stands, candidates=tried, influence=influence, respond=respond,
            pays=lambda agent: pays(agent, measured), alpha=alpha, max_pairs=max_pairs, batch=batch, shift=shift,
            return_range=known, stated=return_range is not None,
        )  # fmt: skip
        stages.add("closer look", sum(one.env_steps for one in found))
        return found

    noop = spec.noop or (None,) * spec.num_agents
    idle = torch.tensor([[name == "noop" and action is not None for name in names] for action in noop])
    verdicts = test_laziness(
        lambda agents, episodes: worlds.differences(agents, LAZY_SEEDS + shift + episodes),
        measured,
        effort=effort,
        applies=~torch.stack([acts_alike(team, spec, policy) for policy in policies], 1),  # an agent in its own place says nothing about it
        idle_references=idle,
        identical=lambda: identical,
        has_choice=measure_choice(base),
        look=looked if look else None,
        names=spec.agents,
        alpha=alpha,
        batch=batch,
        max_pairs=max_pairs,
        report=on_progress,
    )
    stages.close("pairs")
    return LazyReport(
        margin=measured,
        verdicts=verdicts,
        env_steps=sum(stages.env_steps.values()),
        stages=stages.env_steps,
        references=tuple(stand.reference for stand in stands),
        paired=paired,
        influence=tuple(influence),
        candidates=(*tried, *([BEST_RESPONSE] if look and respond is not None else [])),
        alpha=alpha,
        seed=seed,
    )


def _margin(
    worlds: Worlds,
    team: Float[Tensor, " episode"],
    seeds: Int[Tensor, " further"],
    names: Sequence[str],
    fraction: float,
    known: tuple[float, float] | None,
    say: Callable[[str], None],
) -> Margin:
    """The margin by the team's returns on the first of these seeds, and on the next of them while its gain is not shown."""
    first, n, looks = len(team), worlds.env.spec.num_agents, len(MARGIN_LOOKS)
    measure = partial(measure_margin, num_agents=n, names=names, fraction=fraction, return_range=known, looks=looks)
    replaced = worlds.all_replaced(seeds[:first])
    for times in MARGIN_LOOKS[1:]:
        found = measure(team, replaced)
        if found.problem is None or bool((found.gain_high <= 0).any()):
            return found
        say(f"not shown yet that this team beats its references: {times * first} episodes instead of {len(team)}")
        more = seeds[len(team) : times * first]
        team = torch.cat([team, worlds.play(more, []).returns])
        replaced = torch.cat([replaced, worlds.all_replaced(more)], -1)
    return measure(team, replaced)


UNPAIRED = (
    "{task}: the same seed does not give the same episode, so no two episodes are paired. Differences of independent episodes are "
    "judged instead: the verdicts keep their error rates, but take more pairs"
)


class _Stages:
    """Env steps by stage, in order."""

    def __init__(self, worlds: Worlds):
        self.worlds, self.counted = worlds, 0
        self.env_steps: dict[str, int] = {}

    def close(self, name: str) -> None:
        """What `worlds` has played since the last call."""
        self.add(name, self.worlds.env_steps - self.counted)
        self.counted = self.worlds.env_steps

    def add(self, name: str, env_steps: int) -> None:
        self.env_steps[name] = self.env_steps.get(name, 0) + env_steps


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
        raise ConfigError(f"--margin-episodes {margin_episodes} gives no interval: use at least 2 (256 is a good start)")
    if MARGIN_LOOKS[-1] * margin_episodes > SEEDS_APART:
        most = SEEDS_APART // MARGIN_LOOKS[-1]
        raise ConfigError(f"--margin-episodes {margin_episodes} may be {most:,} at most: {MARGIN_LOOKS[-1]} times as many may be needed")
    left = SEEDS_APART - HEADROOM_AT
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
    best_response: int = 0,
    look: bool = True,
    on_progress: Callable[[str], None] | None = None,
) -> LazyReport:
    """`judge_team` of a run's team; in an agent's place are tried its teammates' policies, random, and the run's older checkpoints.

    Args:
        run: a run, its folder or its name.
        references: by name (references.py); default: noop (where every agent has one) and random.
        best_response: env steps for which a policy is trained for each agent of small effect, beside its teammates as they are; 0: none.
        margin, max_pairs, alpha, margin_episodes, seed, return_range, look, on_progress: as `judge_team`.
    """
    run = open_run(run)
    if best_response < 0:
        raise ConfigError(f"--best-response {best_response} must be at least 0: the env steps to train one for")
    if best_response:
        refuse_memory(run.team)
    names = tuple(references) if references else default_references(run.env.spec)
    stands = [make_reference(name, run) for name in names]

    def respond(agent: int) -> tuple[Policy, int]:
        return train_best_response(run, agent, best_response, announce=on_progress)

    return judge_team(
        run.env,
        run.team,
        stands=stands,
        margin=margin,
        max_pairs=max_pairs,
        alpha=alpha,
        margin_episodes=margin_episodes,
        seed=seed,
        return_range=return_range,
        candidates={**default_candidates(run.env, run.team), **older_teams(run)},
        respond=respond if best_response else None,
        pays=lambda agent, measured: _pays(run, agent, measured),
        look=look,
        on_progress=on_progress,
    )


def older_teams(run: Run) -> dict[str, Policy]:
    """The run's first trained checkpoint and the middle one before this, as stand-ins by name; none where there are no older ones."""
    older = [path for path in checkpoints.list_checkpoints(run.folder / "checkpoints") if 0 < checkpoints.step_of(path) < run.env_steps]
    sound = [path for path in older if checkpoints.is_sound(path)]
    chosen = dict.fromkeys([sound[0], sound[len(sound) // 2]]) if sound else {}
    found: dict[str, Policy] = {}
    for path in chosen:
        then = Run(run.folder, run.config, path)
        found[f"itself at {then.env_steps:,} env steps"] = StandIn(then.team)
    return found


def _pays(run: Run, agent: int, margin: Margin) -> bool:
    """Whether the run's credit timeline says that the agent left its work to its teammates."""
    lines = [line for line in read_metrics(run.folder) if line.get("env_steps", 0) <= run.env_steps]
    return bool(pays_by_timeline(lines, run.env.spec.agents, float(margin.delta.max()))[agent])
