"""Watching credit while a team learns: which agent has stopped pulling its weight, with one error rate for the whole run.

At each *look* k the team as it stands plays a few paired episodes per agent and reference; D is what the team loses with the reference in
the agent's place, delta_k the margin by the team's gain at that look. The policy moves between looks, so there is no one mean to test.
The claim is about looks: there is a reference under which agent i earned at least delta_k *at every look*. Against it a gambler bets as in
credit/evidence.py, with a capital that is carried from look to look and topped up when a suspicion arises:

    M <- M * prod over pairs of 1 + c (delta_k - D) / (R - delta_k)        at every look, and at every batch of a test
    M <- M + 1 / (j (j + 1))                                             when the agent is suspected for the j-th time

The top-ups add up to less than 1, and each is decided before the pairs that it bets on. So while the claim is true M is a nonnegative
supermartingale around outside money of at most 1, and P(M ever reaches n / alpha) <= alpha / n: over all looks, tests, suspicions and
agents together, the chance of any false verdict is at most alpha. Lazy needs it under every reference (the least M counts). That is a
Shiryaev-Roberts detector whose starts are chosen by the data instead of being spread evenly over all looks.

Three steps, from cheap to sure:

    suspect   the newest look's mean is below the margin under every reference; an agent that was cleared before needs two looks in a row.
              No claim: it only says where to spend episodes, and tops up.
    lazy      M reached n / alpha: the watcher plays on at that checkpoint, for suspects alone, until it does or until
    cleared   the mean since the suspicion is above twice the margin under some reference; M is thrown away.
    undecided the same, but nothing is said: after 64 pairs the mean is still above the margin under some reference, so that more pairs
              would hardly help and their cost is saved for others; or `max_pairs` pairs did not decide.

So an agent that turns lazy is suspected at the next look and judged there, not after as many looks as it takes to gather the floor of
pairs (credit/evidence.floor_pairs) 8 at a time. What cannot be afforded at once goes on at the next look with what was gathered.
A lazy or cured agent is *recovered* when the same kind of evidence says that it earned more than the margin at some look since its verdict
or its cure.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..credit.evidence import Evidence, begin, further_needed, log_e_above, log_e_below
from ..credit.evidence import update as weigh
from ..credit.verdict import log_e_all_below, log_e_some_above

CLEARED_ABOVE = 2.0
"""Times the margin."""
CLEARED_AFTER = 16
"""Pairs since the suspicion before an agent may be cleared."""
HOPELESS_AFTER = 64
"""Pairs since the suspicion after which a mean above the margin ends the test: evidence does not grow from such pairs."""
BATCH = 16
"""Pairs of a test between two looks at the evidence."""

Status = Literal["watched", "suspect", "cleared", "lazy", "cured"]
Kind = Literal["suspect", "cleared", "undecided", "lazy", "recovered"]
Play = Callable[[tuple[int, ...], int], tuple[Tensor, int]]
"""play(agents, pairs) -> the paired differences (chosen agent, reference, pair) on episodes never played before, and their env steps."""


@dataclass(frozen=True)
class WatchState:
    """All that is remembered from look to look."""

    evidence: Evidence
    """Per agent and reference; `delta` and `bound` are those of the newest look. Capital "below" is 0 (log -inf) until a suspicion."""
    status: tuple[Status, ...]
    """Per agent."""
    suspicions: Int[Tensor, " agent"]
    """How often each was suspected: how much has been topped up."""
    low_looks: Int[Tensor, " agent"]
    """Looks in a row, up to the newest, with a mean below the margin under every reference."""
    pairs: Int[Tensor, " agent"]
    """Pairs since the newest suspicion or verdict."""
    total: Float[Tensor, "agent reference"]
    """Sum of their differences."""


@dataclass(frozen=True)
class Alarm:
    """Something changed about an agent."""

    kind: Kind
    agent: int
    effect: tuple[float, ...]
    """Per reference: the mean over the pairs it rests on."""
    delta: tuple[float, ...]
    """The margin per reference at this look."""
    pairs: int
    """Pairs it rests on: of the look (suspect), since the suspicion or verdict (the others)."""
    evidence: float
    """The e-value, of which n / alpha is needed; 1 for a suspicion, which claims nothing."""


@dataclass(frozen=True)
class Look:
    """One look: what was seen of every agent, and what it cost."""

    differences: Float[Tensor, "agent reference pair"]
    alarms: tuple[Alarm, ...]
    look_steps: int
    """Env steps of the look itself."""
    test_steps: int
    """Env steps of the tests that followed."""
    waiting: tuple[int, ...]
    """Suspects that are not decided after this look."""
    needed: int
    """Fewest pairs that a suspect's test took at least when the look was over; 0 without a suspect."""


def begin_watch(num_agents: int, num_references: int) -> WatchState:
    """Nothing seen yet."""
    counts = torch.zeros(num_agents, dtype=torch.int64)
    evidence = begin(torch.zeros(num_agents, num_references), 1.0)
    nothing = torch.full_like(evidence.log_wealth_below, -math.inf)
    total = torch.zeros(num_agents, num_references, dtype=torch.float64)
    return WatchState(replace(evidence, log_wealth_below=nothing), ("watched",) * num_agents, counts, counts, counts, total)


def update(
    state: WatchState,
    differences: Float[Tensor, "chosen reference pair"],
    delta: Float[Tensor, " reference"],
    *,
    bound: float,
    alpha: float = 0.05,
    max_pairs: int = 512,
    agents: Sequence[int] | None = None,
    judged: Bool[Tensor, " agent"] | None = None,
) -> tuple[WatchState, tuple[Alarm, ...]]:
    """The state after more pairs of the team as it stands, and what they change.

    Args:
        differences: R_k(pi) - R_k(rho_i, pi_-i), within +-bound, on episodes not used before.
        delta: the margin per reference, above 0 and below `bound`, from episodes other than these.
        bound: width of one episode's possible team return.
        alpha: P(any agent is ever wrongly called lazy), over the whole run.
        max_pairs: since a suspicion, after which it is given up.
        agents: whose pairs these are, in order; None: everybody's, and so a look, which alone may raise suspicion.
        judged: False for agents that are not to be judged (no choice); default: all are.
    """
    num_agents = len(state.status)
    is_look, chosen = agents is None, list(range(num_agents) if agents is None else agents)
    judged = torch.ones(num_agents, dtype=torch.bool) if judged is None else judged
    took = torch.zeros(num_agents, dtype=torch.bool)
    took[chosen] = judged[chosen]
    full = torch.zeros(*state.total.shape, differences.shape[-1], dtype=torch.float64)
    full[chosen] = differences.to(torch.float64)
    evidence = replace(state.evidence, delta=delta.to(torch.float64).expand_as(state.total).contiguous(), bound=bound)
    evidence = weigh(evidence, full, took.unsqueeze(-1).expand_as(state.total).contiguous())
    mean = full.mean(-1)
    small = took & (mean < delta).all(-1)
    state = replace(
        state,
        evidence=evidence,
        low_looks=torch.where(took & torch.tensor(is_look), torch.where(small, state.low_looks + 1, 0), state.low_looks),
        pairs=state.pairs + took * differences.shape[-1],
        total=state.total + full.sum(-1) * took.unsqueeze(-1),
    )
    alarms = []
    for agent in took.nonzero().flatten().tolist():
        state, alarm = _judge(state, agent, mean[agent], differences.shape[-1], (alpha, max_pairs), is_look)
        alarms += [] if alarm is None else [alarm]
    return state, tuple(alarms)


def _judge(
    state: WatchState, agent: int, mean: Tensor, fresh: int, ends: tuple[float, int], is_look: bool
) -> tuple[WatchState, Alarm | None]:
    """What an agent's new pairs change about its status; `ends`: alpha and max_pairs."""
    delta, status, pairs = state.evidence.delta[agent], state.status[agent], int(state.pairs[agent])
    since = state.total[agent] / max(pairs, 1)
    below, above = log_e(state)
    alpha, max_pairs = ends
    needed = math.log(len(state.status) / alpha)
    if status == "suspect" and float(below[agent]) >= needed:
        return _turned(state, agent, "lazy"), _alarm("lazy", state, agent, since, pairs, float(below[agent]))
    if status == "suspect" and pairs >= CLEARED_AFTER and bool((since > CLEARED_ABOVE * delta).any()):
        return _turned(state, agent, "cleared"), _alarm("cleared", state, agent, since, pairs, float(below[agent]))
    hopeless = pairs >= HOPELESS_AFTER and bool((since > delta).any())
    if status == "suspect" and (pairs >= max_pairs or hopeless):
        return _turned(state, agent, "cleared"), _alarm("undecided", state, agent, since, pairs, float(below[agent]))
    if status in ("lazy", "cured") and float(above[agent]) >= needed:
        return _turned(state, agent, "cleared"), _alarm("recovered", state, agent, since, pairs, float(above[agent]))
    looks_needed = 2 if status == "cleared" else 1
    if is_look and status in ("watched", "cleared", "cured") and int(state.low_looks[agent]) >= looks_needed:
        return _turned(state, agent, "suspect"), _alarm("suspect", state, agent, mean, fresh, 0.0)
    return state, None


def _turned(state: WatchState, agent: int, status: Status) -> WatchState:
    """The state with an agent's status changed, and the capital that goes with the new one."""
    below, above = state.evidence.log_wealth_below.clone(), state.evidence.log_wealth_above.clone()
    suspicions = state.suspicions.clone()
    if status == "suspect":
        suspicions[agent] += 1
        j = int(suspicions[agent])
        below[agent] = torch.logaddexp(below[agent], torch.tensor(-math.log(j * (j + 1)), dtype=torch.float64))
    else:
        below[agent] = -math.inf
        above[agent] = 0.0
    pairs, total, low_looks = state.pairs.clone(), state.total.clone(), state.low_looks.clone()
    pairs[agent], total[agent], low_looks[agent] = 0, 0.0, 0
    return replace(
        state,
        evidence=replace(state.evidence, log_wealth_below=below, log_wealth_above=above),
        status=tuple(status if i == agent else old for i, old in enumerate(state.status)),
        suspicions=suspicions,
        pairs=pairs,
        total=total,
        low_looks=low_looks,
    )


def restarted(state: WatchState, agent: int) -> WatchState:
    """The state after a cure: what was gathered about this agent is of another policy and thrown away; what was topped up stays spent."""
    return _turned(state, agent, "cured")


def log_e(state: WatchState) -> tuple[Float[Tensor, " agent"], Float[Tensor, " agent"]]:
    """log e that an agent was below its margin under every reference; and that it was above under some, since its status changed."""
    applies = torch.ones_like(state.total, dtype=torch.bool)
    return log_e_all_below(log_e_below(state.evidence), applies), log_e_some_above(log_e_above(state.evidence), applies)


def pairs_needed(state: WatchState, agent: int, alpha: float, newest: Float[Tensor, " reference"] | None = None) -> int:
    """About how many further pairs it takes to call this suspect lazy; hardly fewer will do.

    Supposed are differences of 0, or, where the team did better without the agent, those of the newest look.
    """
    each = torch.zeros_like(state.total[agent]) if newest is None else newest.clamp(-state.evidence.bound, 0.0)
    log_needed = math.log(len(state.status) / alpha)
    return int(further_needed(state.evidence, log_needed, each.expand_as(state.total))[agent].max())


def observe(
    state: WatchState,
    play: Play,
    delta: Float[Tensor, " reference"],
    *,
    bound: float,
    alpha: float = 0.05,
    pairs: int = 8,
    max_pairs: int = 512,
    test_budget: float = math.inf,
    judged: Bool[Tensor, " agent"] | None = None,
) -> tuple[WatchState, Look]:
    """One look at everybody, then the test of those under suspicion, as far as `test_budget` env steps and `max_pairs` go.

    A test that hardly can reach its verdict within them (`pairs_needed`) is not begun: the budget is kept for a later look.
    """
    differences, steps = play(tuple(range(len(state.status))), pairs)
    limits: Any = {"bound": bound, "alpha": alpha, "max_pairs": max_pairs, "judged": judged}
    state, alarms = update(state, differences, delta, **limits)
    per_world = steps / (pairs * (1 + differences.shape[0] * differences.shape[1]))
    suspects, needed = _affordable(state, alpha, max_pairs, test_budget / per_world, differences.mean(-1))
    better = [agent for agent in (*_of(state, "lazy"), *_of(state, "cured")) if bool((differences[agent].mean(-1) > delta).any())]
    testing, spent = tuple(sorted([*suspects, *better])), 0
    for start in range(0, max_pairs, BATCH):
        number = min(BATCH, max_pairs - start)
        if not testing or spent + number * (1 + len(testing) * differences.shape[1]) * per_world > test_budget:
            break
        batch, played = play(testing, number)
        spent += played
        state, more = update(state, batch, delta, agents=testing, **limits)
        alarms += more
        done = {alarm.agent for alarm in more}
        done |= {agent for row, agent in enumerate(testing) if agent in better and bool((batch[row].mean(-1) < delta).all())}
        testing = tuple(agent for agent in testing if agent not in done)
    return state, Look(differences, alarms, steps, spent, _of(state, "suspect"), needed)


def _affordable(
    state: WatchState, alpha: float, max_pairs: int, worlds: float, newest: Float[Tensor, "agent reference"]
) -> tuple[tuple[int, ...], int]:
    """The suspects whose tests can reach their end within so many episodes, cheapest first; and the fewest pairs that any test takes."""
    references = state.total.shape[1]
    cost = {agent: pairs_needed(state, agent, alpha, newest[agent]) for agent in _of(state, "suspect")}
    chosen: list[int] = []
    for agent in sorted(cost, key=lambda agent: cost[agent]):
        longest = max(cost[agent], *(cost[other] for other in chosen)) if chosen else cost[agent]
        if longest <= max_pairs and longest * (1 + (len(chosen) + 1) * references) <= worlds:
            chosen.append(agent)
    return tuple(chosen), min(cost.values(), default=0)


def _of(state: WatchState, status: Status) -> tuple[int, ...]:
    return tuple(agent for agent, own in enumerate(state.status) if own == status)


def _alarm(kind: Kind, state: WatchState, agent: int, mean: Tensor, pairs: int, log: float) -> Alarm:
    delta = tuple(state.evidence.delta[agent].tolist())
    return Alarm(kind, agent, tuple(mean.tolist()), delta, pairs, math.exp(min(log, 700.0)))
