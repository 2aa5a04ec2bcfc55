"""Who was right about whom: each detector run on a planted team becomes records, and records become rates.

Truth of a member at a margin m, from its large-sample effects (`planted_pool.Truth`), delta_rho = m G_rho / n:

    negative     effect > 2 delta under some reference
    lazy         effect < delta / 2 under every reference, and a good member in its place gains more than every delta
    harmful      the same, but the team is better by delta / 2 when it does nothing
    not-needed   effect < delta / 2 under every reference, and a good member would gain no more than delta
    near         all others: not scored

Guards, dummies and redundant members are rows of their own while their truth is not "lazy" or "harmful": never to be called lazy.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...credit.classes import LAZY
from .planted_pool import Truth

SPECIAL = ("guard", "redundant", "dummy")
POSITIVE = ("lazy", "harmful")
"""What an upper bound below the margin is right about."""


@dataclass(frozen=True)
class Record:
    """What a detector said of one member, and what is true."""

    family: str
    team: str
    run: int
    """Number of the team, and of the slice of its episodes."""
    member: str
    role: str
    truth: str
    above: bool
    """Whether the true effect is above the margin under some reference."""
    verdict: str
    """A class of credit/classes.py; a baseline says "lazy-busy" or "contributing"."""
    score: float
    """Larger for lazier."""
    pairs: int
    floor: int
    """Pairs that a lazy verdict takes at least (first Holm step)."""
    env_steps: float
    """Per verdict."""
    judged: bool = True
    """False where the team truly does not beat its reference: nobody is to be judged. Refused for want of episodes is undecided."""
    again: tuple[float, ...] = ()
    """The score on further episodes, as many pairs each time: what it is worth without the luck of one draw."""
    means: tuple[float, ...] = ()
    """On the same pairs, how far the mean lies below the margin: how well those pairs can be ordered at all."""
    attainable: float | None = None
    """P(a test that knew the standard deviation and looked once, at the last pair, would find it), if it is lazy (`attainable_power`)."""

    @property
    def called_lazy(self) -> bool:
        return self.verdict in LAZY


def truth_of(truth: Truth, fraction: float, idle: Sequence[bool]) -> list[str]:
    """The truth of each agent by the rules above; `idle`: which references count as doing nothing."""
    delta = truth.delta(fraction)
    small, large = truth.effect < delta / 2, truth.effect > 2 * delta
    harms = (truth.effect < -delta / 2)[:, list(idle)].any(1) if any(idle) else (truth.effect < -delta / 2).all(1)
    words = []
    for agent in range(len(truth.effect)):
        if bool(large[agent].any()):
            words.append("negative")
        elif not bool(small[agent].all()):
            words.append("near")
        elif float(truth.headroom[agent]) <= float(delta.max()):
            words.append("not-needed")
        else:
            words.append("harmful" if harms[agent] else "lazy")
    return words


def row_of(record: Record) -> str:
    """The row a record is counted in."""
    return record.role if record.role in SPECIAL and record.truth not in POSITIVE else record.truth


def attainable_power(
    effect: Float[Tensor, "agent reference"],
    sd: Float[Tensor, "agent reference"],
    delta: Float[Tensor, " reference"],
    pairs: int,
    alpha: float,
) -> Float[Tensor, " agent"]:
    """An upper bound, about, on the chance to show an effect below delta under every reference within so many pairs, per agent.

    min over references of Phi((delta - effect) sqrt(pairs) / sd - z), z the normal quantile of the easiest step that Holm may reach,
    alpha / (n - other agents below their margins): a test for normal differences with known sd that looks once, at the end. It is given
    more than any test that is valid for every bounded difference has.
    """
    small = (effect < delta).all(1)
    steps = len(effect) - (small.sum() - small.to(torch.int64)).clamp_min(0)
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0)
    quantile = normal.icdf(1 - alpha / steps.to(torch.float64))
    return normal.cdf((delta - effect) * pairs**0.5 / sd.clamp_min(1e-12) - quantile.unsqueeze(1)).amin(1)


def auc(positive: Float[Tensor, " positive"], negative: Float[Tensor, " negative"]) -> float | None:
    """P(a positive scores above a negative), ties half; None without one of either."""
    if not len(positive) or not len(negative):
        return None
    ordered = negative.sort().values
    below, up_to = (torch.searchsorted(ordered, positive, right=right).to(torch.float64) for right in (False, True))
    return float(((below + up_to) / 2).mean()) / len(negative)


@dataclass(frozen=True)
class Rates:
    """A detector's figures over records; None where nothing of that kind was met."""

    teams: int
    members: int
    lazy: int
    """Truly lazy members."""
    recall: float | None
    """Of the truly lazy, called lazy."""
    harmful: int
    harmful_found: float | None
    """Of those whose absence is a gain, called harmful (or lazy)."""
    innocent: int
    """Members that must not be called lazy: negative, not needed, guards, redundant, dummies."""
    false_lazy: int
    false_lazy_rate: float | None
    wrong_below: int
    """Called lazy though the true effect is above the margin: what alpha bounds, whatever the row."""
    precision: float | None
    attainable: float | None
    """Mean over the truly lazy of `attainable_power`."""
    auc: float | None
    """Members below half the margin (and with room) against negatives, by score."""
    auc_again: float | None
    """The same over further draws of as many pairs."""
    auc_within: float | None
    """The same, comparing members of one family only: log e-values of different tasks are not on one scale (it hangs on margin / range)."""
    auc_of_means: float | None
    """On those draws, members ordered by their mean alone."""
    cannot_tell: float | None
    """Undecided, of the lazy and the negative."""
    median_pairs: float | None
    """Of true lazy verdicts."""
    floor: float | None
    """Their median floor."""
    over_floor: float | None
    """Median of pairs over floor."""
    env_steps_per_verdict: float | None
    rows: dict[str, tuple[int, int]]
    """Row -> (members, called lazy)."""
    unjudged: int
    """Members of teams that truly do not beat their reference."""


def rates(records: Sequence[Record]) -> Rates:
    """The figures of one detector."""
    judged = [record for record in records if record.judged]
    by_row: dict[str, list[Record]] = {}
    for record in judged:
        by_row.setdefault(row_of(record), []).append(record)
    lazy, harmful, negative = (by_row.get(name, []) for name in ("lazy", "harmful", "negative"))
    innocent = [record for name in ("negative", "not-needed", *SPECIAL) for record in by_row.get(name, [])]
    found = [record for record in lazy if record.called_lazy]
    wrong = [record for record in innocent if record.called_lazy]
    called = len(found) + len(wrong)
    either = [*lazy, *negative]
    guards = [record for record in by_row.get("guard", []) if record.truth == "negative"]
    positive, against = [*lazy, *harmful], [*negative, *guards]
    return Rates(
        teams=len({(record.family, record.run) for record in records}),
        members=len(judged),
        lazy=len(lazy),
        recall=_share(found, lazy),
        harmful=len(harmful),
        harmful_found=_share([record for record in harmful if record.called_lazy or record.verdict == "harmful"], harmful),
        innocent=len(innocent),
        false_lazy=len(wrong),
        false_lazy_rate=_share(wrong, innocent),
        wrong_below=sum(record.called_lazy and record.above for record in judged),
        precision=len(found) / called if called else None,
        attainable=_mean([record.attainable for record in lazy if record.attainable is not None]),
        auc=auc(_scores(positive), _scores(against)),
        auc_again=auc(_all(record.again for record in positive), _all(record.again for record in against)),
        auc_within=_auc_within(positive, against),
        auc_of_means=auc(_all(record.means for record in positive), _all(record.means for record in against)),
        cannot_tell=_share([record for record in either if record.verdict == "undecided"], either),
        median_pairs=_median([float(record.pairs) for record in found]),
        floor=_median([float(record.floor) for record in found]),
        over_floor=_median([record.pairs / record.floor for record in found if record.floor]),
        env_steps_per_verdict=sum(record.env_steps for record in judged) / len(judged) if judged else None,
        rows={name: (len(group), sum(record.called_lazy for record in group)) for name, group in sorted(by_row.items())},
        unjudged=len(records) - len(judged),
    )


def _auc_within(positive: Sequence[Record], against: Sequence[Record]) -> float | None:
    """Of all comparisons between a positive and a negative of one family, how many stand in the right order (ties half)."""
    right = total = 0.0
    for family in dict.fromkeys(record.family for record in positive):
        one, other = (_all(record.again for record in part if record.family == family) for part in (positive, against))
        found = auc(one, other)
        if found is not None:
            right, total = right + found * len(one) * len(other), total + len(one) * len(other)
    return right / total if total else None


def _share(part: Sequence[Record], whole: Sequence[Record]) -> float | None:
    return len(part) / len(whole) if whole else None


def _median(values: Sequence[float]) -> float | None:
    if not values:
        return None
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _all(parts: Iterable[tuple[float, ...]]) -> Float[Tensor, " score"]:
    return torch.tensor([score for part in parts for score in part], dtype=torch.float64)


def _scores(records: Sequence[Record]) -> Float[Tensor, " record"]:
    return torch.tensor([record.score for record in records], dtype=torch.float64)
