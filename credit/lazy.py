"""Which agents pull their weight: verdicts from paired episodes.

Agent i's effect under reference rho is Delta_i(rho) = J(pi) - J(rho_i, pi_-i): what the team loses when i alone follows rho.
"Lazy" is a claim that an effect is *small*, so it needs evidence of its own; a failed test for a large effect is none. The margin
is delta_rho = m G_rho / n, a fraction m of an equal share of what the team gains over its reference (`margin.py`). classes.py has the
ten classes and their rules.

"Below under every reference" needs no correction: if one mean is not below its margin, that one must be refuted too
(intersection-union). So a guard that stands still and matters is not lazy: doing nothing instead changes nothing, doing something random
does. Over agents, Holm on e-values (`evidence.e_holm`) keeps P(any false "below") <= alpha, and likewise P(any false "above") and
P(any false "harmful"). All of it is anytime valid: agents decided early stop costing episodes, and claims once made stay.

What costs more is looked up only of agents whose effect is small (`look`): Shapley values and interactions, which tell redundant from
lazy, and headroom, which tells not needed from lazy. "Small effect" and "room to do better" must both be shown, each at
level alpha over all agents, so P(any agent wrongly called lazy) is at most 2 alpha (one agent may fail on the first claim, another on the
second).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .classes import LAZY, CloserLook, classify
from .evidence import MIN_APPROXIMATE_PAIRS, Evidence, at, begin, confidence_sequence, floor_pairs, log_e_above, log_e_below, scaled, update
from .margin import Margin
from .verdict import Claims, Peaks, Verdict, claims, log_e_all_below, log_e_some_above, that_count

_LARGEST_LOG = 700.0  # e^700 is still a float
_MOST_PAIRS = 65_536  # where the search for an approximate floor ends: a floor of so many means "at least so many"
Look = Callable[[tuple[int, ...]], Sequence[CloserLook]]
"""look(agents) -> what a closer look at each of these agents found, in their order."""
Play = Callable[[tuple[int, ...], Tensor], Tensor]
"""play(agents, episodes) -> paired differences (chosen agent, reference, episode): rows in the order of `agents`, anything where a
reference does not apply."""


def floors(margin: Margin, alpha: float = 0.05) -> str:
    """A line for people: how many pairs a lazy verdict takes at least, for the first and the last agent called lazy, unless it harms."""
    first, last = floor_range(margin, alpha)
    kind = "approximate (return range unknown)" if margin.approximate else f"returns within a width of {margin.bound:g}"
    deltas = ", ".join(f'{delta:.3g} against "{name}"' for name, delta in zip(margin.references, margin.delta.tolist(), strict=True))
    return (
        f"margin {margin.fraction:g} of an equal share = {deltas}; {kind}: "
        f"unless the team does better without it, no agent can be called lazy before {last} to {first} pairs of episodes"
    )


def floor_range(margin: Margin, alpha: float = 0.05) -> tuple[int, int]:
    """Fewest pairs to call a harmless agent lazy at the first Holm step (alpha / n) and at the last (alpha), for the smallest margin."""
    delta = float(margin.delta.min())
    levels = (alpha / margin.num_agents, alpha)
    if not margin.approximate:
        return floor_pairs(delta, margin.bound, levels[0]), floor_pairs(delta, margin.bound, levels[1])
    pairs = torch.arange(MIN_APPROXIMATE_PAIRS, _MOST_PAIRS)
    zeros = torch.zeros(len(pairs), dtype=torch.float64)
    still = replace(begin(torch.full_like(zeros, delta), margin.bound, approximate=True), count=pairs)
    log_e = log_e_below(still)
    reached = [log_e >= math.log(1 / level) for level in levels]
    first, last = (int(pairs[shown.to(torch.int64).argmax()]) if bool(shown.any()) else _MOST_PAIRS for shown in reached)
    return first, last


def _pairs_needed(evidence: Evidence, applies: Tensor, counts: Tensor, shown: Claims, alpha: float) -> list[int | None]:
    """Further pairs after which each agent would be decided, if all pairs to come are like those seen; None beyond 100 times as many."""
    waiting_below = math.log((len(applies) - int(shown.below.sum())) / alpha) if not bool(shown.below.all()) else 0.0
    waiting_above = math.log((len(applies) - int(shown.above.sum())) / alpha) if not bool(shown.above.all()) else 0.0
    factors = 1.1 ** torch.arange(1, 49, dtype=torch.float64)
    more = scaled(evidence, factors)
    small, large = log_e_all_below(log_e_below(more), applies), log_e_some_above(log_e_above(more), counts)
    decided = (small >= waiting_below) | (large >= waiting_above)
    first = torch.where(decided.any(0), decided.to(torch.int64).argmax(0), -1).tolist()
    pairs = evidence.count.amax(1).tolist()
    return [None if step < 0 else math.ceil(pairs[agent] * (float(factors[step]) - 1)) for agent, step in enumerate(first)]


def find_lazy(
    play: Play,
    margin: Margin,
    *,
    effort: Sequence[float | None] | None = None,
    applies: Bool[Tensor, "agent reference"] | None = None,
    idle_references: Bool[Tensor, "agent reference"] | None = None,
    identical: Callable[[], Tensor] | None = None,
    has_choice: Sequence[float | None] | None = None,
    look: Look | None = None,
    names: Sequence[str] | None = None,
    alpha: float = 0.05,
    batch: int = 32,
    max_pairs: int = 512,
    first_episode: int | None = None,
    idle_below: float = 0.1,
    report: Callable[[str], None] | None = None,
) -> tuple[Verdict, ...]:
    """Plays pairs of episodes in batches until every agent is decided or `max_pairs` is reached; one verdict per agent.

    Args:
        play: `play(agents, episodes)`: paired differences R_k(pi) - R_k(rho_i, pi_-i), shape (len(agents), references, len(episodes)),
            for the chosen agents only. The same index must mean the same seeds; every index is asked for at most once.
        margin: from `measure_margin`.
        effort: per agent, P(an action other than no-op | it had a choice); None without a no-op.
        applies: False where a reference does not exist for an agent (no-op without a no-op action); default: all apply.
        idle_references: True where the reference counts as doing nothing: being worse than that is harmful. An agent for which none does
            (the default) is harmful if it is worse than every reference.
        identical: asked after the last pair, (agent, reference) bool: True where the policy's actions never differed from the reference's.
        has_choice: per agent, the share of env steps at which it was alive and had a choice; None: not counted.
        look: asked once, of the agents whose effect is small; without it "lazy" may mean redundant or not needed, and the note says so.
        names: the agents' names; default "agent 0", ...
        alpha: P(any effect wrongly claimed small) is at most this over all agents, and P(any wrongly claimed large), and P(any
            wrongly claimed negative).
        batch: pairs between looks.
        max_pairs: give up after these; the rest stay undecided.
        first_episode: index of the first pair; default: after the episodes of the margin (0 .. margin.episodes - 1).
        idle_below: an agent with less effort is idle.
        report: takes lines for people as the search goes on (the floor first), e.g. `print`.

    Returns:
        Verdicts in agent order. All are undecided, with the reason in `note`, if the team does not beat its references.

    Raises:
        ValueError: an agent to which no reference applies, bad counts, differences outside the declared return range, NaN or a wrong shape.
    """
    n, num_references = margin.num_agents, len(margin.references)
    say = (lambda line: None) if report is None else report
    applies = torch.ones(n, num_references, dtype=torch.bool) if applies is None else applies
    effort = [None] * n if effort is None else effort
    names = [f"agent {agent}" for agent in range(n)] if names is None else list(names)
    if batch < 1 or max_pairs < 2:
        raise ValueError(f"batch {batch} and max_pairs {max_pairs}: at least 1 pair a batch and 2 in all")
    if not bool(applies.any(1).all()):
        lonely = int((~applies.any(1)).nonzero()[0])
        raise ValueError(f"no reference applies to {names[lonely]}; add one that exists for every agent, such as random")
    idle = torch.zeros_like(applies) if idle_references is None else idle_references
    has_choice = [None] * n if has_choice is None else has_choice
    if margin.problem is not None:
        say(margin.problem)
        return tuple(_not_judged(agent, names[agent], effort[agent], margin) for agent in range(n))
    say(floors(margin, alpha))
    if (fewest := floor_range(margin, alpha)[1]) > max_pairs:
        say(f"max_pairs is {max_pairs}: too few to call an agent lazy unless it harms; allow at least {fewest}, or raise the margin")
    first = margin.episodes if first_episode is None else first_episode
    acts = [0.0 if choice == 0 else own for own, choice in zip(effort, has_choice, strict=True)]  # without a choice nobody acts
    counts = that_count(applies, idle, acts, idle_below)
    if asleep := not torch.equal(counts, applies):
        say("nobody in this team acts: being better than an agent that does something earns nobody its place")
    seen = _gather(play, margin, (applies, idle, counts), alpha, (batch, max_pairs), first, say)
    small = tuple((seen.shown.below & ~seen.shown.harms & ~seen.shown.above).nonzero().flatten().tolist())
    looks: dict[int, CloserLook] = {}
    if look is not None and small:
        say(f"a closer look at {', '.join(names[agent] for agent in small)}: who stands in for it, and would another do better?")
        looks = dict(zip(small, look(small), strict=True))
    same = torch.zeros_like(applies) if identical is None else identical() & (seen.evidence.total_square == 0)
    needed = _pairs_needed(seen.evidence, applies, counts, seen.shown, alpha) if not bool(seen.shown.settled.all()) else [None] * n
    intervals = _intervals(seen, margin)
    told = []
    for agent in range(n):
        found = _measured(seen, margin, intervals[agent], agent, applies[agent], same[agent])
        shown = {name: bool(getattr(seen.shown, name)[agent]) for name in ("above", "acting", "below", "harms")}
        verdict = classify(
            **shown,
            effort=effort[agent],
            has_choice=has_choice[agent],
            look=looks.get(agent),
            delta=tuple(margin.delta.tolist()),
            idle_below=idle_below,
        )
        further = needed[agent] if verdict == "undecided" and agent not in looks else None
        note = _note(verdict, found, further, looks.get(agent), effort[agent], bool(applies[agent].all()), shown["below"])
        if asleep and verdict == "undecided":
            note += "; nobody in this team acts, and where all stand still, being better than an agent that acts makes nobody a guard"
        own: dict[str, Any] = {"effort": effort[agent], "has_choice": has_choice[agent], "look": looks.get(agent)}
        told.append(Verdict(agent=agent, name=names[agent], verdict=verdict, needed=further, note=note, **own, **found))
    return tuple(told)


@dataclass(frozen=True)
class _Seen:
    """All pairs played."""

    evidence: Evidence
    peaks: Peaks
    history: Float[Tensor, "agent reference pair"]
    """Differences; 0 where not played."""
    shown: Claims


def _gather(
    play: Play,
    margin: Margin,
    masks: tuple[Tensor, Tensor, Tensor],
    alpha: float,
    sizes: tuple[int, int],
    first_episode: int,
    say: Callable[[str], None],
) -> _Seen:
    """Pairs for whoever is still open, `sizes[0]` at a time, at most `sizes[1]`."""
    (applies, idle, counts), (batch, max_pairs), n = masks, sizes, margin.num_agents
    thresholds = torch.stack([margin.delta, 0 * margin.delta, -margin.delta])  # the margin, nothing, and the margin's opposite
    evidence = begin(thresholds.unsqueeze(1).expand(3, *applies.shape).contiguous(), margin.bound, approximate=margin.approximate)
    peaks = Peaks(*(torch.zeros(applies.shape, dtype=torch.float64) for _ in range(4)))
    shown = claims(peaks, applies, idle, counts=counts, alpha=alpha)
    batches = []
    for start in range(0, max_pairs, batch):
        is_open = ~shown.settled
        agents = tuple(is_open.nonzero().flatten().tolist())
        if not agents:
            break
        episodes = torch.arange(start, min(start + batch, max_pairs)) + first_episode
        played, expected = play(agents, episodes), (len(agents), applies.shape[1], len(episodes))
        if tuple(played.shape) != expected:
            raise ValueError(f"play returned shape {tuple(played.shape)}; expected {expected}: (agents asked for, references, episodes)")
        differences = torch.zeros(*applies.shape, len(episodes), dtype=torch.float64)
        differences[list(agents)] = played.to(torch.float64)
        chosen = applies & is_open.unsqueeze(1)
        evidence = update(evidence, differences.expand(3, *differences.shape), chosen.expand(3, *chosen.shape))
        batches.append(torch.where(chosen.unsqueeze(-1), differences, 0.0))
        below, over = log_e_below(evidence), log_e_above(evidence)
        now = Peaks(below[0], over[0], below[1], over[2])
        peaks = Peaks(*(torch.maximum(getattr(peaks, item.name), getattr(now, item.name)) for item in fields(Peaks)))
        shown = claims(peaks, applies, idle, counts=counts, alpha=alpha)
        say(f"{start + len(episodes)} pairs: {int(shown.settled.sum())} of {n} agents decided")
    return _Seen(at(evidence, 0), peaks, torch.cat(batches, -1), shown)


def _intervals(seen: _Seen, margin: Margin) -> dict[int, tuple[Tensor, Tensor]]:
    """Each agent's (low, high) per reference; agents with equally many pairs are bisected together."""
    pairs, found = seen.evidence.count.amax(1), {}
    for number in pairs.unique().tolist():
        agents = (pairs == number).nonzero().flatten().tolist()
        low, high = confidence_sequence(seen.history[agents, :, :number], margin.bound, approximate=margin.approximate)
        found |= {agent: (low[row], high[row]) for row, agent in enumerate(agents)}
    return found


def _measured(
    seen: _Seen, margin: Margin, interval: tuple[Tensor, Tensor], agent: int, applies: Tensor, identical: Tensor
) -> dict[str, Any]:
    """The numbers of one agent's verdict, for the references that apply to it."""
    pairs = int(seen.evidence.count[agent].max())

    def kept(values: Tensor) -> tuple[Any, ...]:
        return tuple(values[applies].tolist())

    return {
        "references": tuple(name for name, here in zip(margin.references, applies.tolist(), strict=True) if here),
        "effect": kept(seen.evidence.total[agent] / pairs),
        "low": kept(interval[0]),
        "high": kept(interval[1]),
        "delta": kept(margin.delta),
        "gain": kept(margin.gain),
        "e_below": kept(seen.peaks.small[agent].clamp_max(_LARGEST_LOG).exp()),
        "e_above": kept(seen.peaks.large[agent].clamp_max(_LARGEST_LOG).exp()),
        "identical": kept(identical),
        "pivotal": kept((seen.history[agent, :, :pairs].abs() > margin.delta.unsqueeze(-1)).to(torch.float64).mean(-1)),
        "episodes": pairs,
        "approximate": margin.approximate,
    }


def _note(
    verdict: str, found: dict[str, Any], needed: int | None, look: CloserLook | None, effort: float | None, all_apply: bool, below: bool
) -> str:
    """What else a reader must know, in words."""
    notes, pairs = [], found["episodes"]
    if verdict == "undecided" and below:
        notes.append("its effect is small, but whether anybody in its place would do better is not shown, so it may not be needed")
    elif verdict == "undecided":
        notes.append(f"no claim after {pairs} pairs" + ("" if needed is None else f"; about {needed} more would decide"))
    if verdict in LAZY and look is None:
        notes.append(
            "nobody looked whether teammates stand in for it, or whether another would do better: it may be redundant or not needed"
        )
    if verdict == "harmful" and max(found["effect"]) > 0:
        notes.append("not against every reference")
    if effort is None and verdict == "lazy-busy":
        notes.append("it has no no-op action, so it cannot idle")
    if not all_apply:
        notes.append("a reference does not exist for this agent: judged on the others only")
    if found["approximate"]:
        notes.append("approximate: the task declares no return range")
    return "; ".join(notes)


def _not_judged(agent: int, name: str, effort: float | None, margin: Margin) -> Verdict:
    """No reference was beaten, so no number is given either."""
    assert margin.problem is not None
    return Verdict(
        agent=agent,
        name=name,
        verdict="undecided",
        references=(),
        effect=(),
        low=(),
        high=(),
        delta=(),
        e_below=(),
        e_above=(),
        identical=(),
        effort=effort,
        episodes=0,
        needed=None,
        approximate=margin.approximate,
        note=margin.problem,
    )
