"""Which agents pull their weight: verdicts from paired episodes.

Agent i's effect under reference rho is Delta_i(rho) = J(pi) - J(rho_i, pi_-i): what the team loses when i alone follows rho.
"Lazy" is a claim that an effect is *small*, so it needs evidence of its own; a failed test for a large effect is none. The margin
is delta_rho = m G_rho / n, a fraction m of an equal share of what the team gains over its reference (`margin.py`).

    contributing   evidence for Delta_i(rho) > delta_rho under some reference (Bonferroni over references)
    lazy-idle      evidence for Delta_i(rho) < delta_rho under *every* reference, and the agent mostly does nothing
    lazy-busy      the same, but it acts
    undecided      neither, yet

"Every reference" needs no correction: if one mean is not below its margin, that one must be refuted too (intersection-union). So a
guard that stands still and matters is not lazy: doing nothing instead changes nothing, doing something random does. Over agents, Holm
on e-values (`evidence.e_holm`) keeps P(any false lazy) <= alpha, and likewise P(any false contributing) <= alpha. All of it is
anytime valid: agents decided early stop costing episodes.

What this version cannot tell apart: of two *redundant* agents (either could do the job alone) each has a small effect under every
reference and would be called lazy on effects alone. So pass each agent's Shapley values as `share`: who has share >= delta_rho under
some reference is left undecided, with the reason. Headroom (could a better agent in its place help at all?) is not measured either:
lazy may mean "not needed".
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .evidence import MIN_APPROXIMATE_PAIRS, Evidence, begin, confidence_sequence, floor_pairs, log_e_above, log_e_below, scaled, update
from .margin import Margin
from .verdict import Claims, Verdict, claims, judge, log_e_all_below, log_e_some_above, redundant

_LARGEST_LOG = 700.0  # e^700 is still a float
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
    pairs = torch.arange(MIN_APPROXIMATE_PAIRS, 65_536)
    zeros = torch.zeros(len(pairs), dtype=torch.float64)
    still = replace(begin(torch.full_like(zeros, delta), margin.bound, approximate=True), count=pairs)
    log_e = log_e_below(still)
    first, last = (int(pairs[(log_e >= math.log(1 / level)).to(torch.int64).argmax()]) for level in levels)
    return first, last


def _pairs_needed(evidence: Evidence, applies: Tensor, shown: Claims, alpha: float) -> list[int | None]:
    """Further pairs after which each agent would be decided, if all pairs to come are like those seen; None beyond 100 times as many."""
    waiting_below = math.log((len(applies) - int(shown.below.sum())) / alpha) if not bool(shown.below.all()) else 0.0
    waiting_above = math.log((len(applies) - int(shown.above.sum())) / alpha) if not bool(shown.above.all()) else 0.0
    needed: list[int | None] = [None] * len(applies)
    for factor in (1.1**step for step in range(48, 0, -1)):
        more = scaled(evidence, factor)
        small, large = log_e_all_below(log_e_below(more), applies), log_e_some_above(log_e_above(more), applies)
        decided = (small >= waiting_below) | (large >= waiting_above)
        for agent in decided.nonzero().flatten().tolist():
            needed[agent] = math.ceil(int(evidence.count[agent].max()) * (factor - 1))
    return needed


def find_lazy(
    play: Play,
    margin: Margin,
    *,
    effort: Sequence[float | None] | None = None,
    applies: Bool[Tensor, "agent reference"] | None = None,
    identical: Callable[[], Tensor] | None = None,
    share: Float[Tensor, "agent reference"] | None = None,
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
        identical: asked after the last pair, (agent, reference) bool: True where the policy's actions never differed from the reference's.
        share: Shapley values per agent and reference, NaN where not measured; see the note on redundant agents above.
        names: the agents' names; default "agent 0", ...
        alpha: P(any agent wrongly called lazy) at most this, and P(any wrongly called contributing).
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
    names = [f"agent {agent}" for agent in range(n)] if names is None else names
    if batch < 1 or max_pairs < 2:
        raise ValueError(f"batch {batch} and max_pairs {max_pairs}: at least 1 pair a batch and 2 in all")
    if not bool(applies.any(1).all()):
        lonely = int((~applies.any(1)).nonzero()[0])
        raise ValueError(f"no reference applies to {names[lonely]}; add one that exists for every agent, such as random")
    if margin.problem is not None:
        say(margin.problem)
        return tuple(_not_judged(agent, names[agent], effort[agent], margin) for agent in range(n))
    say(floors(margin, alpha))
    if (fewest := floor_range(margin, alpha)[1]) > max_pairs:
        say(f"max_pairs is {max_pairs}: too few to call an agent lazy unless it harms; allow at least {fewest}, or raise the margin")
    seen = _gather(play, margin, applies, alpha, (batch, max_pairs), margin.episodes if first_episode is None else first_episode, say)
    spared = redundant(share, margin.delta, applies)
    classes = judge(seen.shown, effort=effort, spared=spared, idle_below=idle_below)
    same = torch.zeros_like(applies) if identical is None else identical() & (seen.evidence.total_square == 0)
    needed = _pairs_needed(seen.evidence, applies, seen.shown, alpha)
    told = []
    for agent, verdict in enumerate(classes):
        is_spared = bool(spared[agent] & seen.shown.below[agent])
        further = None if verdict != "undecided" or is_spared else needed[agent]
        found = _measured(seen, margin, agent, applies[agent], same[agent])
        note = _note(verdict, found["episodes"], further, is_spared, effort[agent], bool(applies[agent].all()), margin.approximate)
        told.append(Verdict(agent=agent, name=names[agent], verdict=verdict, effort=effort[agent], needed=further, note=note, **found))
    return tuple(told)


@dataclass(frozen=True)
class _Seen:
    """All pairs played."""

    evidence: Evidence
    history: Float[Tensor, "agent reference pair"]
    """Differences; 0 where not played."""
    shown: Claims


def _gather(
    play: Play, margin: Margin, applies: Tensor, alpha: float, sizes: tuple[int, int], first_episode: int, say: Callable[[str], None]
) -> _Seen:
    """Pairs for whoever is still open, `sizes[0]` at a time, at most `sizes[1]`."""
    n = len(applies)
    batch, max_pairs = sizes
    evidence = begin(margin.delta.expand_as(applies).contiguous(), margin.bound, approximate=margin.approximate)
    shown = Claims(torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool))
    batches = []
    for start in range(0, max_pairs, batch):
        is_open = ~(shown.above | shown.below)
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
        evidence = update(evidence, differences, chosen)
        batches.append(torch.where(chosen.unsqueeze(-1), differences, 0.0))
        shown = claims(log_e_below(evidence), log_e_above(evidence), applies, alpha=alpha)
        say(f"{start + len(episodes)} pairs: {int((shown.above | shown.below).sum())} of {n} agents decided")
    return _Seen(evidence, torch.cat(batches, -1), shown)


def _measured(seen: _Seen, margin: Margin, agent: int, applies: Tensor, identical: Tensor) -> dict[str, Any]:
    """The numbers of one agent's verdict, for the references that apply to it."""
    pairs = int(seen.evidence.count[agent].max())
    low, high = confidence_sequence(seen.history[agent, applies, :pairs], margin.bound, approximate=margin.approximate)

    def kept(values: Tensor) -> tuple[Any, ...]:
        return tuple(values[applies].tolist())

    return {
        "references": tuple(name for name, here in zip(margin.references, applies.tolist(), strict=True) if here),
        "effect": kept(seen.evidence.total[agent] / pairs),
        "low": tuple(low.tolist()),
        "high": tuple(high.tolist()),
        "delta": kept(margin.delta),
        "e_below": kept(log_e_below(seen.evidence)[agent].clamp_max(_LARGEST_LOG).exp()),
        "e_above": kept(log_e_above(seen.evidence)[agent].clamp_max(_LARGEST_LOG).exp()),
        "identical": kept(identical),
        "episodes": pairs,
        "approximate": margin.approximate,
    }


def _note(verdict: str, pairs: int, needed: int | None, is_spared: bool, effort: float | None, all_apply: bool, approximate: bool) -> str:
    """What else a reader must know, in words."""
    notes = []
    if is_spared and verdict == "undecided":
        notes.append("its effect alone is small, but its Shapley value is not: teammates can stand in for it (redundant rather than lazy)")
    elif verdict == "undecided":
        notes.append(f"no claim after {pairs} pairs" + ("" if needed is None else f"; about {needed} more would decide"))
    if effort is None and verdict == "lazy-busy":
        notes.append("it has no no-op action, so it cannot idle")
    if not all_apply:
        notes.append("a reference does not exist for this agent: judged on the others only")
    if approximate:
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
