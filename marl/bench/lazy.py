"""`marl bench lazy`: how often a laziness verdict is right, on teams with planted members; ours and what people would try instead.

Teams are drawn by the seed (planted.py), what is true of them is measured on thousands of other episodes (planted_pool.py), and who was
right is counted (planted_score.py). Ours is `judge_team` as `marl lazy` calls it, with a good member among those that are tried in an
agent's place. Baselines are given 16 and 64 pairs, or all the episodes of the margin where they count actions.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...credit.evidence import begin, floor_pairs, ranking, update
from ...credit.lazy import floor_range
from ...credit.margin import Margin
from ..errors import ConfigError, suggest
from ..headroom import default_candidates
from ..laziness import judge_team
from .lazy_baselines import Baselines
from .lazy_drift import Drift, measure_drift
from .lazy_stress import Stress, measure_stress
from .planted import FAMILIES, SLOW, PlantedTeam, draw_team
from .planted_pool import NATIVE, QUICK, REAL, Pool, Sizes, Truth, play_pool
from .planted_score import SPECIAL, Rates, Record, attainable_power, rates, truth_of

OURS = "teamcredit"
ALPHA = 0.05
MAX_PAIRS = 512
RANKED_AT = 16
"""Pairs at which the ranking is scored."""
WINDOWS = 32
"""How often it is scored again, on other pairs, so that the figure does not hang on one draw."""
MARGINS = (0.1, 0.25)


@dataclass(frozen=True)
class Said:
    """What a detector says of one agent."""

    verdict: str
    pairs: int
    env_steps: float
    """Its share of all that was played."""


Judge = Callable[[PlantedTeam, float, int], Sequence[Said]]
"""judge(team, margin, seed) -> one for each agent."""


@dataclass(frozen=True)
class Plan:
    """How many teams of each family: (distinct teams, runs of each on episodes of its own)."""

    teams: dict[str, tuple[int, int]]
    sizes: Sizes
    drift: int
    stress: int


FULL = Plan(
    {"coalition": (75, 1), "plate-and-door": (6, 5), "foraging": (6, 4), "spread": (6, 4), "mpe": (1, 1), "lbf": (1, 1)}, NATIVE, 10, 20_000
)
FAST = Plan({"coalition": (15, 1), "plate-and-door": (4, 1), "foraging": (1, 2), "spread": (1, 2)}, QUICK, 2, 2_000)


@dataclass(frozen=True)
class Line:
    """A detector's figures in one family (or "all") at one margin."""

    name: str
    family: str
    margin: float
    pairs: int | None
    """Given to a baseline; None: it stops when it knows."""
    rates: Rates

    def document(self) -> dict[str, Any]:
        """As `--json` prints it."""
        own = asdict(self.rates)
        rows = {name: {"members": members, "called_lazy": called} for name, (members, called) in own.pop("rows").items()}
        ranked, again, within, means = (own.pop(name) for name in ("auc", "auc_again", "auc_within", "auc_of_means"))
        at = f"auc_{RANKED_AT if self.pairs is None else self.pairs}"
        found = {at: ranked, f"{at}_repeated": again, f"{at}_within_tasks": within, f"{at}_of_means": means}
        return {"name": self.name, "family": self.family, "margin": self.margin, "pairs": self.pairs, **found, **own, "rows": rows}


@dataclass(frozen=True)
class Check:
    """A target."""

    what: str
    margin: float | None
    found: float | None
    wanted: str
    met: bool


@dataclass(frozen=True)
class LazyBench:
    """All of it."""

    seed: int
    margins: tuple[float, ...]
    families: tuple[str, ...]
    lines: tuple[Line, ...]
    stress: tuple[Stress, ...]
    drift: tuple[Drift, ...]
    checks: tuple[Check, ...]
    records: tuple[Record, ...] = field(repr=False, default=())
    """Of our own detector."""

    @property
    def ok(self) -> bool:
        """Whether every target was met."""
        return all(check.met for check in self.checks)

    def document(self) -> dict[str, Any]:
        """As `--json` prints it (the schema's number is added there)."""
        return {
            "seed": self.seed,
            "margins": list(self.margins),
            "families": list(self.families),
            "ok": self.ok,
            "detectors": [line.document() for line in self.lines],
            "stress": [asdict(row) for row in self.stress],
            "drift": [asdict(row) for row in self.drift],
            "checks": [asdict(check) for check in self.checks],
        }


def judge(planted: PlantedTeam, margin: float, seed: int) -> list[Said]:
    """Ours: `judge_team`, which may also try a good member in an agent's place."""
    report = judge_team(
        planted.env,
        planted.team,
        stands=planted.stands,
        margin=margin,
        max_pairs=MAX_PAIRS,
        alpha=ALPHA,
        seed=seed,
        candidates={**default_candidates(planted.env, planted.team), "a good member": planted.good},
    )
    share = report.env_steps / len(report.verdicts)
    return [Said(one.verdict, one.episodes, share) for one in report.verdicts]


def parse_bench_families(text: str | Sequence[str] | None, quick: bool) -> tuple[str, ...]:
    """The families asked for; default: all, in a quick run those that are native."""
    if text is None:
        return tuple(name for name in FAMILIES if not (quick and name in SLOW))
    names = [name for name in (text.replace(",", " ").split() if isinstance(text, str) else text) if name]
    for name in names:
        if name not in FAMILIES:
            raise ConfigError(f'--families: no family "{name}".{suggest(name, FAMILIES)} There are: {", ".join(FAMILIES)}')
    return tuple(name for name in FAMILIES if name in names)


def bench_lazy(
    *,
    quick: bool = False,
    seed: int = 0,
    teams: int | None = None,
    families: str | Sequence[str] | None = None,
    margins: Sequence[float] = MARGINS,
    stress: bool | None = None,
    drift: bool | None = None,
    judge: Judge = judge,
    on_progress: Callable[[str], None] | None = None,
) -> LazyBench:
    """Figures of our detector and of the baselines.

    Args:
        quick: under a minute, native families only unless others are named.
        seed: of teams and episodes; the same seed gives the same figures.
        teams: at most so many distinct teams of each family.
        families: some of FAMILIES; none at all with `stress` gives the stress test alone.
        margins: fractions of an equal share.
        stress: the stress test too; default: unless `families` are named.
        drift: the drift too; default: unless `families` are named.
        judge: another detector to stand for ours.
        on_progress: is told what comes next.
    """
    chosen, plan, say = parse_bench_families(families, quick), FAST if quick else FULL, on_progress or (lambda text: None)
    for margin in margins:
        if not 0 < margin < 1:
            raise ConfigError(f"--margin {margin} must lie between 0 and 1: it is a fraction of an equal share")
    if teams is not None and teams < 1:
        raise ConfigError(f"--teams {teams} must be at least 1")
    everything = families is None
    ours: dict[float, list[Record]] = {margin: [] for margin in margins}
    others: dict[tuple[str, int | None, float], list[Record]] = {}
    for family in chosen:
        distinct, runs = plan.teams.get(family, (1, 1))
        generator = torch.Generator().manual_seed(seed * 1000 + list(FAMILIES).index(family))
        drawn = [draw_team(family, index, generator) for index in range(distinct if teams is None else min(teams, distinct))]
        for index, planted in enumerate(drawn):
            say(f"{family}: team {index + 1} of {len(drawn)} ({planted.name})")
            pool = play_pool(planted, runs, REAL if family in SLOW else plan.sizes, seed)
            baselines = Baselines(planted, pool, seed)
            for number in range(runs):
                truth, run = pool.truth_of(number), index * runs + number
                for margin in margins if family not in SLOW else margins[-1:]:
                    said = judge(planted, margin, (seed * 37 + run) % 100)
                    about = _About(planted, pool, truth, number, run, margin)
                    ours[margin] += about.ours(said)
                    for (name, pairs), suspicion in baselines.at(number, margin).items():
                        told = [Said("lazy-busy" if lazy else "contributing", pairs or 0, 0.0) for lazy in suspicion.lazy.tolist()]
                        others.setdefault((name, pairs, margin), []).extend(about.records(told, suspicion.laziness.tolist()))
    lines = [line for margin in margins for line in _lines(OURS, None, margin, ours[margin], chosen)]
    lines += [line for (name, pairs, margin), found in others.items() for line in _lines(name, pairs, margin, found, chosen)]
    stressed = measure_stress(plan.stress, seed, say) if stress or (stress is None and everything) else ()
    drifted = measure_drift(plan.drift, seed, say) if drift or (drift is None and everything) else ()
    return LazyBench(
        seed=seed,
        margins=tuple(margins),
        families=chosen,
        lines=tuple(lines),
        stress=tuple(stressed),
        drift=tuple(drifted),
        checks=tuple(checks_of(lines, stressed, drifted)),
        records=tuple(record for margin in margins for record in ours[margin]),
    )


@dataclass(frozen=True)
class _About:
    """One run on one team at one margin."""

    planted: PlantedTeam
    pool: Pool
    truth: Truth
    number: int
    run: int
    margin: float

    @property
    def measured(self) -> Margin:
        return self.pool.margin_of(self.number, self.margin)

    def ranking(self, seen: Float[Tensor, "*window agent reference pair"]) -> Float[Tensor, "*window agent"]:
        """The log e-value for "below the margin" after these pairs, smallest over references."""
        measured = self.measured
        if not bool((measured.delta > 0).all()):
            return torch.zeros(seen.shape[:-2], dtype=torch.float64)
        evidence = begin(measured.delta.expand(seen.shape[:-1]).contiguous(), measured.bound, approximate=measured.approximate)
        return ranking(update(evidence, seen)).amin(-1)

    def by_mean(self, seen: Float[Tensor, "*window agent reference pair"]) -> Float[Tensor, "*window agent"]:
        """How far the mean of these pairs lies below the margin, in margins so that tasks compare, smallest over references."""
        delta = self.measured.delta
        if not bool((delta > 0).all()):
            return torch.zeros(seen.shape[:-2], dtype=torch.float64)
        return (1 - seen.mean(-1) / delta).amin(-1)

    def ours(self, said: Sequence[Said]) -> list[Record]:
        """What our detector said, how it ranks at `RANKED_AT` pairs (once, and again on other pairs), and what could be found at all."""
        windows = self.pool.windows_of(self.number, RANKED_AT, WINDOWS)
        again, means = (tuple(map(tuple, scores.T.tolist())) for scores in (self.ranking(windows), self.by_mean(windows)))
        truth, delta, measured = self.truth, self.truth.delta(self.margin), self.measured
        can = attainable_power(truth.effect, truth.error * truth.pairs**0.5, delta, MAX_PAIRS, ALPHA).tolist()
        reached = [_floor(effect, delta, measured, easiest=True) <= MAX_PAIRS for effect in truth.effect]
        plain = self.records(said, self.ranking(self.pool.pairs_of(self.number)[..., :RANKED_AT]).tolist())
        return [
            replace(one, again=again[agent], means=means[agent], attainable=can[agent] if reached[agent] else 0.0)
            for agent, one in enumerate(plain)
        ]

    def records(self, said: Sequence[Said], scores: Sequence[float]) -> list[Record]:
        """What was said beside what is true."""
        planted, delta, measured = self.planted, self.truth.delta(self.margin), self.measured
        words = truth_of(self.truth, self.margin, [name == "noop" for name in self.pool.references])
        floors = [_floor(effect, delta, measured) for effect in self.truth.effect]
        return [
            Record(
                family=planted.family,
                team=planted.name,
                run=self.run,
                member=planted.members[agent],
                role=planted.roles[agent],
                truth=words[agent],
                above=bool((self.truth.effect[agent] > delta).any()),
                verdict=one.verdict,
                score=score,
                pairs=one.pairs,
                floor=floors[agent],
                env_steps=one.env_steps,
                judged=bool((self.truth.gain > 0).all()),
            )
            for agent, (one, score) in enumerate(zip(said, scores, strict=True))
        ]


def _floor(effect: Tensor, delta: Tensor, measured: Margin, *, easiest: bool = False) -> int:
    """Pairs that a lazy verdict takes at least, at Holm's first step, or (`easiest`) at its last.

    A reference that is clearly better than the member needs fewer, and is left out.
    """
    level = ALPHA if easiest else ALPHA / measured.num_agents
    if measured.approximate:
        return floor_range(measured, ALPHA)[int(easiest)]
    least = measured.delta[effect > -delta / 2] if bool((effect > -delta / 2).any()) else measured.delta
    return max((floor_pairs(one, measured.bound, level) for one in least.tolist() if 0 < one < measured.bound), default=0)


def _lines(name: str, pairs: int | None, margin: float, records: Sequence[Record], families: Sequence[str]) -> list[Line]:
    """A line per family and one over all."""
    parts = [(family, [record for record in records if record.family == family]) for family in families]
    return [Line(name, family, margin, pairs, rates(part)) for family, part in [*parts, ("all", list(records))] if part]


def checks_of(lines: Sequence[Line], stress: Sequence[Stress], drift: Sequence[Drift]) -> list[Check]:
    """Our targets over all families; what was not measured is not checked."""
    found: list[Check] = []
    for line in lines:
        if line.name != OURS or line.family != "all":
            continue
        own, margin = line.rates, line.margin
        for what, value, wanted, met in (
            ("false-lazy rate", own.false_lazy_rate, "<= 0.01", lambda x: x <= 0.01),
            ("recall within 512 pairs", own.recall, ">= 0.85", lambda x: x >= 0.85),
            ("median pairs over the floor", own.over_floor, "<= 2", lambda x: x <= 2),
            (f"AUC at {RANKED_AT} pairs, over {WINDOWS} draws", own.auc_again, ">= 0.99", lambda x: x >= 0.99),
            (f"AUC at {RANKED_AT} pairs within tasks, over {WINDOWS} draws", own.auc_within, ">= 0.99", lambda x: x >= 0.99),
        ):
            if value is not None:
                found.append(Check(what, margin, value, wanted, bool(met(value))))
        for role in SPECIAL:
            if role in own.rows:
                members, called = own.rows[role]
                found.append(Check(f"{role} members called lazy, of {members}", margin, float(called), "0", called == 0))
    for row in stress:
        if row.kind == "boundary":
            met = row.low <= ALPHA
            found.append(Check(f"false lazy, rare event p = {row.p:g}", None, row.lazy, "not significantly above 0.05", met))
        else:
            found.append(Check(f"power, margin {row.delta:g}, {row.kind}", None, row.lazy, ">= 0.85", row.lazy >= 0.85))
    for row in drift:
        delay = row.median_delay
        met = row.found == row.trials and delay is not None and delay <= 2
        found.append(Check(f"drift delay on {row.task}, evaluations (all found)", None, delay, "<= 2", met))
        found.append(Check(f"drift on {row.task}: false alarms", None, float(row.false_alarms), "0", row.false_alarms == 0))
    return found
