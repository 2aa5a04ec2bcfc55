"""The watcher of a run (`--watch-credit`): plays the looks of watch.py on the team as it stands, within a budget of env steps.

Training is not touched: looks have episode seeds of their own, each used once, and draw on no generator of the run. What is remembered
goes into the checkpoint, so a resumed run goes on with the evidence of the unbroken one.

The margin is the usual one, m G / n, with G the larger of the team's gain now and the largest it has proven so far: an agent that idles
takes the team's gain down with it, and would lower the very margin it is judged by. Where a whole team collapses, an agent whose work
depends on another's earns nothing either; so a verdict says whether any teammate still earns something (`teammates_earn`), and no cure
follows while none does.

Budget. After N env steps of training the watch has played at most `overhead` * N env steps: looks two thirds of that, tests of suspects
what is left. A look that would cost more is played with fewer pairs, below two it is skipped; its record says so. What a look costs is
foretold from the episodes before it, so the share can be exceeded by the error of one forecast, which the next look pays back.
"""

import copy
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..credit.evidence import Evidence
from ..envs.base import TeamEnv
from .config import Config
from .errors import ConfigError
from .evaluate import Episodes, seeds_from
from .policies import Team
from .watch import Alarm, Look, WatchState, begin_watch, observe, restarted
from .watch_records import alarm_record, by_reference, timeline
from .worlds import Worlds, measure_choice, measure_effort

WATCH_SEEDS = 1_000_000_000
"""Where the episode seeds of looks begin; far beyond those of evaluate.py."""
FEWEST_REFERENCE_EPISODES, REFERENCE_EPISODES = 16, 64
"""Episodes in which everybody follows a reference: fewest to judge anybody by, and most, twice as many as pairs at each look. What they
return does not change while the team learns."""
LOOKS_SHARE = 2 / 3
"""Of the budget."""
CHOICE_FLOOR = 0.02
"""As in credit/classes.py: share of steps with a choice below which an agent is not judged."""


@dataclass(frozen=True)
class Ledger:
    """Env steps played, and the next unused seed."""

    env_steps: int = 0
    test_steps: int = 0
    """Those of `env_steps` that tests of suspects took."""
    next_seed: int = WATCH_SEEDS
    length: float = 0.0
    """Mean env steps of an episode of the newest pairs."""


@dataclass(frozen=True)
class Gain:
    """What the team earns beyond its references."""

    mean: Float[Tensor, " reference"]
    low: Float[Tensor, " reference"]
    """Lower end of its 95% interval (t, approximate)."""


def measure_gain(team: Float[Tensor, " episode"], references: Float[Tensor, "reference other_episode"]) -> Gain:
    """From returns of the team and, on other episodes, of everybody following each reference (Welch's standard error)."""
    team, references = team.to(torch.float64), references.to(torch.float64)
    mean = team.mean() - references.mean(-1)
    error = (team.var() / len(team) + references.var(-1) / references.shape[-1]).sqrt()
    return Gain(mean, mean - 2.1 * error)


class Watcher:
    """Looks at a run's team, and what it remembers between looks."""

    def __init__(self, config: Config, env: TeamEnv, saved: dict[str, Any] | None = None):
        """`saved`: what `dump` gave, of a run that goes on. ConfigError for a task or references that cannot be watched."""
        from .references import default_references, reference_policy

        spec = env.spec
        if spec.num_agents < 2:
            raise ConfigError(f"--watch-credit: {spec.name} has one agent, and laziness is about one agent among teammates")
        self.env, self.rules = env, config.watch
        self.references = self.rules.references or default_references(spec)
        self.policies = [reference_policy(name, spec) for name in self.references]
        self.state, self.ledger = begin_watch(spec.num_agents, len(self.references)), Ledger()
        self.reference_returns = torch.zeros(len(self.references), 0, dtype=torch.float64)
        self.seen: tuple[float, float] | None = None
        """Lowest and highest return so far."""
        self.resting: dict[int, int] = {}
        """Agents that were cured, and the env steps from which on they are judged again."""
        self.newest: Float[Tensor, "agent reference"] | None = None
        """Mean differences at the newest look of this process."""
        self.proven = torch.full((len(self.references),), -torch.inf, dtype=torch.float64)
        """The largest gain the team has shown so far, per reference: the lower end of its interval."""
        if saved is not None:
            self._restore(saved)

    @property
    def bound(self) -> float:
        """R: the declared width of one episode's return; else of those seen before the pairs at hand, which makes verdicts approximate."""
        low, high = self.env.spec.return_range or self.seen or (0.0, 0.0)
        return high - low

    @property
    def approximate(self) -> bool:
        """True where the task declares no range of returns."""
        return self.env.spec.return_range is None

    def look(self, team: Team, env_steps: int, evaluated: Episodes) -> list[dict[str, Any]]:
        """The records of one look at a team after `env_steps` of training: first the credit, then what changed about whom.

        `evaluated` are other episodes of the same team: its gain, and how much its agents do, are measured on them. Nothing of a look
        that is broken off (a worker died) is kept.
        """
        ahead = copy.copy(self)
        records = ahead._look(team, env_steps, evaluated)
        vars(self).update(vars(ahead))
        return records

    def restart(self, agent: int, until: int) -> None:
        """After a cure: the evidence about this agent is of another policy, and it is not judged before `until` env steps."""
        self.state, self.resting = restarted(self.state, agent), {**self.resting, agent: until}

    def best_teammate(self, agent: int, learns: Bool[Tensor, " agent"]) -> int | None:
        """The learning teammate with the largest effect at the newest look (the least over references); None without one.

        One that is called lazy itself only where all are: it may lie a hair above a guard, whose least effect is 0.
        """
        assert self.newest is not None, "a cure follows a look"
        able = learns.clone()
        able[agent] = False
        works = able & torch.tensor([status != "lazy" for status in self.state.status])
        able = works if bool(works.any()) else able
        return int(self.newest.amin(-1).masked_fill(~able, -torch.inf).argmax()) if bool(able.any()) else None

    def has_working_teammate(self, agent: int) -> bool:
        """Whether somebody else who is not called lazy itself earned more than the margin at the newest look."""
        assert self.newest is not None, "after a look"
        earns = (self.newest > self.state.evidence.delta).any(-1).tolist()
        return any(earns[other] and status != "lazy" for other, status in enumerate(self.state.status) if other != agent)

    def still_lazy(self) -> tuple[int, ...]:
        """Agents called lazy that have not been treated or recovered, and earned less than the margin at the newest look too."""
        if self.newest is None:  # no look yet, or skipped ones only since the run was resumed
            return ()
        low = (self.newest < self.state.evidence.delta).all(-1).tolist()
        return tuple(agent for agent, status in enumerate(self.state.status) if status == "lazy" and low[agent])

    def _look(self, team: Team, env_steps: int, evaluated: Episodes) -> list[dict[str, Any]]:
        spec, rules = self.env.spec, self.rules
        pairs, note = self._affordable(env_steps, evaluated)
        if pairs < 2:
            return [self._record(env_steps, pairs=0, credit=None, note=note)]
        self._play_references(team, 2 * pairs)
        self._widen(evaluated.returns, self.reference_returns)
        gain = measure_gain(evaluated.returns, self.reference_returns)
        if self.reference_returns.shape[1] >= FEWEST_REFERENCE_EPISODES:
            self.proven = torch.maximum(self.proven, gain.low)
        delta = rules.margin * torch.where(gain.low > 0, torch.maximum(gain.mean, self.proven), self.proven) / spec.num_agents
        alarms: tuple[Alarm, ...] = ()
        if bool((self.proven > 0).all() and (delta < self.bound).all()):
            self.state, look = observe(
                self.state, lambda agents, number: self._pairs(team, agents, number), delta, bound=self.bound, alpha=rules.alpha,
                pairs=pairs, max_pairs=rules.max_pairs, judged=self._judged(evaluated, env_steps),
                test_budget=rules.overhead * env_steps - self.ledger.env_steps - self._cost(pairs, self.ledger.length),
            )  # fmt: skip
            self.ledger = replace(self.ledger, test_steps=self.ledger.test_steps + look.test_steps)
            differences, alarms, notes = look.differences, look.alarms, [note, self._waiting(look)]
        else:
            differences, _ = self._pairs(team, tuple(range(spec.num_agents)), pairs)
            delta = torch.full_like(delta, torch.nan)
            notes = [note, "nobody is judged: the team does not clearly beat its references yet"]
        collapsed = not bool((gain.low > 0).all())
        self.newest = differences.mean(-1)
        credit = self._record(
            env_steps, pairs=pairs, credit=timeline(differences, spec.agents, self.references),
            status=dict(zip(spec.agents, self.state.status, strict=True)), gain=by_reference(gain.mean, self.references),
            delta=by_reference(delta, self.references), note="; ".join(filter(None, notes)) or None,
        )  # fmt: skip
        effort = measure_effort(evaluated, spec)
        told = (
            alarm_record(
                alarm,
                spec.agents[alarm.agent],
                self.references,
                effort=effort[alarm.agent],
                approximate=self.approximate,
                teammates_earn=self._teammates_earn(alarm.agent),
                collapsed=collapsed,
            )
            for alarm in alarms
        )
        return [credit, *({"env_steps": env_steps, **record} for record in told)]

    def _judged(self, evaluated: Episodes, env_steps: int) -> Bool[Tensor, " agent"]:
        """False for agents that hardly ever have a choice, and for those whose cure still goes on."""
        rested = [self.resting.get(agent, 0) <= env_steps for agent in range(self.env.spec.num_agents)]
        return (torch.tensor(measure_choice(evaluated)) >= CHOICE_FLOOR) & torch.tensor(rested)

    def _teammates_earn(self, agent: int) -> bool:
        """Whether somebody else earned more than the margin at the newest look; else an agent's own effect says little about it."""
        assert self.newest is not None
        others = [other for other in range(len(self.newest)) if other != agent]
        return bool((self.newest > self.state.evidence.delta)[others].any())

    def _affordable(self, env_steps: int, evaluated: Episodes) -> tuple[int, str | None]:
        """How many pairs the budget allows now, and why not as many as asked for."""
        length, wanted = self.ledger.length or evaluated.env_steps / len(evaluated.returns), self.rules.pairs
        everything = self.rules.overhead * env_steps - self.ledger.env_steps
        for_looks = LOOKS_SHARE * self.rules.overhead * env_steps - (self.ledger.env_steps - self.ledger.test_steps)
        left = min(everything, for_looks)
        pairs = wanted
        while pairs >= 2 and self._cost(pairs, length) > left:
            pairs -= 1
        if pairs == wanted:
            return pairs, None
        share = f"{LOOKS_SHARE * self.rules.overhead:.0%} of training's env steps"
        what = "skipped" if pairs < 2 else f"shortened to {pairs} of {wanted} pairs"
        return pairs, f"{what}: {wanted} pairs would take {self._cost(wanted, length):,.0f} env steps and looks may take {share}"

    def _cost(self, pairs: int, length: float) -> float:
        """Env steps of a look, foretold."""
        references, agents = len(self.references), self.env.spec.num_agents
        missing = min(REFERENCE_EPISODES - self.reference_returns.shape[1], 2 * pairs)
        return length * (pairs * (1 + agents * references) + missing * references)

    def _waiting(self, look: Look) -> str | None:
        if not look.waiting:
            return None
        names = ", ".join(self.env.spec.agents[agent] for agent in look.waiting)
        return f"{names} under suspicion: a test takes {look.needed} pairs or more, and it goes on when the budget allows; evidence is kept"

    def _fresh(self, count: int) -> Tensor:
        """Episode seeds that were never used."""
        first = self.ledger.next_seed
        self.ledger = replace(self.ledger, next_seed=first + count)
        return seeds_from(first, count)

    def _worlds(self, team: Team) -> Worlds:
        return Worlds(self.env, team, self.policies, return_range=self.env.spec.return_range)

    def _count(self, worlds: Worlds) -> None:
        self.ledger = replace(self.ledger, env_steps=self.ledger.env_steps + worlds.env_steps)

    def _play_references(self, team: Team, most: int) -> None:
        """Some more episodes in which everybody follows a reference, until there are enough."""
        number = min(REFERENCE_EPISODES - self.reference_returns.shape[1], most)
        if number:
            worlds = self._worlds(team)
            try:
                returns = worlds.all_replaced(self._fresh(number))
            except ValueError as error:  # a no-op that is not always available
                raise ConfigError(f"--watch-credit: {error}", remedy="--watch.references random") from error
            self.reference_returns = torch.cat([self.reference_returns, returns], 1)
            self._count(worlds)

    def _pairs(self, team: Team, agents: tuple[int, ...], number: int) -> tuple[Tensor, int]:
        """R_k(pi) - R_k(rho_i, pi_-i) on `number` fresh episodes (agent, reference, pair), all worlds side by side; and their env steps."""
        worlds = self._worlds(team)
        pairs = [(agent, which) for agent in agents for which in range(len(self.policies))]
        played = worlds.side_by_side(pairs, self._fresh(number))
        returns = played.returns.view(-1, number)
        self._count(worlds)
        self.ledger = replace(self.ledger, length=played.env_steps / len(played.returns))
        differences = (returns[0] - returns[1:]).view(len(agents), len(self.policies), number)
        if self.approximate:  # a bet needs a range that was fixed before its pairs; what lies beyond it counts as its end
            differences = differences.clamp(-self.bound, self.bound)
        return differences, played.env_steps

    def _widen(self, *returns: Tensor) -> None:
        """Take returns into the span of those seen."""
        every = torch.cat([values.flatten() for values in returns])
        low, high = self.seen or (float(every.min()), float(every.max()))
        self.seen = (min(low, float(every.min())), max(high, float(every.max())))

    def _record(self, env_steps: int, **figures: Any) -> dict[str, Any]:
        """A line of the credit timeline."""
        spent = {"watch.env_steps": self.ledger.env_steps, "watch.share": self.ledger.env_steps / max(env_steps, 1)}
        return {"event": "credit", "env_steps": env_steps, **figures, **spent}

    def dump(self) -> dict[str, Any]:
        """What is remembered, as JSON values (numbers come back exactly)."""
        state = self.state
        return {
            "references": list(self.references), "ledger": asdict(self.ledger), "seen": self.seen and list(self.seen),
            "status": list(state.status),
            "reference_returns": self.reference_returns.tolist(),
            "proven": _listed(self.proven),
            "resting": [list(pair) for pair in self.resting.items()], "bound": state.evidence.bound,
            "evidence": {name: _listed(getattr(state.evidence, name)) for name in _EVIDENCE},
            **{name: _listed(getattr(state, name)) for name in _TENSORS},
        }  # fmt: skip

    def _restore(self, saved: dict[str, Any]) -> None:
        evidence = {name: _tensor(saved["evidence"][name], getattr(self.state.evidence, name)) for name in _EVIDENCE}
        tensors = {name: _tensor(saved[name], getattr(self.state, name)) for name in _TENSORS}
        remembered = Evidence(bound=saved["bound"], approximate=False, **evidence)
        self.state = WatchState(evidence=remembered, status=tuple(saved["status"]), **tensors)
        self.ledger, self.seen = Ledger(**saved["ledger"]), None if saved["seen"] is None else tuple(saved["seen"])
        self.proven = _tensor(saved["proven"], self.proven)
        self.resting = dict(saved["resting"])
        self.reference_returns = torch.tensor(saved["reference_returns"], dtype=torch.float64)


def make_watcher(config: Config, env: TeamEnv, saved: dict[str, Any] | None = None) -> Watcher | None:
    """The watcher that a configuration asks for; ConfigError where this task or these references cannot be watched."""
    return None if config.watch_credit == "off" else Watcher(config, env, saved)


_EVIDENCE = ("delta", "count", "total", "total_square", "log_wealth_below", "log_wealth_above")
_TENSORS = ("suspicions", "low_looks", "pairs", "total")


def _listed(values: Tensor) -> list[Any]:
    """A tensor as lists; -inf, which JSON has no word for, as null."""
    return [_listed(row) for row in values] if values.dim() > 1 else [None if value == -torch.inf else value for value in values.tolist()]


def _tensor(values: list[Any], like: Tensor) -> Tensor:
    def filled(part: Any) -> Any:
        return [filled(item) for item in part] if isinstance(part, list) else -torch.inf if part is None else part

    return torch.tensor(filled(values), dtype=like.dtype)
