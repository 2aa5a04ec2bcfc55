"""What may be done about an agent found lazy in training (`--on-lazy intervene --cure NAME`), to that agent alone.

    transplant      its policy becomes a copy of the teammate's with the largest effect
    reset           its last layers are drawn anew, and it explores more for a while
    counterfactual  it is paid D_i = r(s, u) - r(s, (u_-i, c_i)) instead of the team's reward (agent_reward.py)
    diligence       it is paid a bonus for changing what is no agent's own (diligence.py), annealed to nothing

A cure is an entry of `CURES`: what it needs of a run (asked before training), what it does once to the weights, and for how much of what is
left of the run it goes on. Which parts of a network are an agent's own: with `network.share false` its rows of every layer; with shared
weights only the column of the first layer that its id enters by, since all else is everybody's. So with shared weights a transplant is
complete (ids apart, the networks are one), and a reset draws only that column anew: what a shared head has learned is not an agent's
to forget. Moments of the optimiser go along: copied by a transplant, zeroed by a reset.

After a cure the agent is not judged while it lasts, and the watch begins its evidence about it anew: then it is called recovered, or lazy
again, or neither is shown. Each agent is cured once. One that is found lazy while no teammate earns anything is passed over, since it may
only depend on others; it is treated at the first later look at which a teammate that is not lazy earns more than the margin and it still
does not.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..envs.base import TeamEnv, TeamSpec
from ..envs.randomness import mix_seed
from .agent_reward import make_agent_reward
from .agents import AgentLinear, UtilityNetwork
from .config import Config
from .diligence import WEIGHT, TreatedPay, refuse_diligence
from .errors import ConfigError, suggest
from .policies import Pay, Team

if TYPE_CHECKING:
    from .trainer import Trainer

Index = tuple[Any, ...]
BOOST = 0.5
"""Epsilon of an agent that was reset, at first and at least: it begins with the run's own first epsilon where that is more.

An agent whose layers are new knows as little as one at the start, and half of that exploration may find nothing: what takes six chance
actions in a row is met (1/2)^6 as often."""


@dataclass(frozen=True)
class Treatment:
    """A cure at work on one agent."""

    cure: str
    agent: int
    since: int
    """Env steps of training at which it began."""
    until: int
    """Env steps at which it has faded out, or is judged if it does not fade."""

    def left(self, env_steps: int) -> float:
        """1 when it begins, falling linearly to 0 at `until`."""
        return min(max((self.until - env_steps) / max(self.until - self.since, 1), 0.0), 1.0)


@dataclass(frozen=True)
class Cure:
    """One way to treat a lazy agent."""

    summary: str
    refuse: Callable[[Config, TeamEnv], None]
    """ConfigError where a run lacks what the cure needs."""
    operate: "Callable[[Trainer, int, int | None], str]"
    """(trainer, agent, the learning teammate with the largest effect) -> what was done to the weights, in words."""
    lasts: float
    """Share of what is left of the run until the agent is judged again."""
    needs_peer: bool = False


def own_parts(utility: UtilityNetwork, agent: int) -> dict[str, Index]:
    """Parameter name -> where in it the agent's own numbers stand."""
    if utility.first.share:
        return {"first.linear.weight": (slice(None), utility.first.obs_dim + agent)}
    parts: dict[str, Index] = {}
    for name, parameter in utility.named_parameters():
        rows = len(parameter) // utility.num_agents  # of a grouped convolution; 1 elsewhere
        parts[name] = (slice(agent * rows, (agent + 1) * rows),)
    return parts


def _last_layers(utility: UtilityNetwork, agent: int) -> dict[str, Index]:
    """The head and the hidden layer before it; with shared weights the id's column."""
    parts = own_parts(utility, agent)
    if utility.first.share:
        return parts
    last = f"layers.{len(utility.layers) - 1}." if len(utility.layers) else "head."
    return {name: index for name, index in parts.items() if name.startswith(("head.", last))}


@torch.no_grad()
def _write(
    trainer: "Trainer", parts: dict[str, Index], values: "Callable[[str, Tensor], Tensor]", moments: "Callable[[Tensor, str], Tensor]"
) -> None:
    """New numbers into these parts of the live and the slow utility network, and into the optimiser's moments."""
    utility: Any = trainer.networks["utility"]
    slow: Any = trainer.targets["utility"]
    state = next(iter(trainer.optimisers.values())).state
    for name, index in parts.items():
        live = dict(utility.named_parameters())[name]
        new = values(name, live)
        for network in (utility, slow):
            dict(network.named_parameters())[name][index] = new
        for moment in ("exp_avg", "exp_avg_sq"):
            if moment in state.get(live, {}):
                state[live][moment][index] = moments(state[live][moment], name)


def transplant(trainer: "Trainer", agent: int, peer: int | None) -> str:
    """The agent's own parts become its teammate's."""
    assert peer is not None
    utility: Any = trainer.networks["utility"]
    source = own_parts(utility, peer)
    _write(
        trainer,
        own_parts(utility, agent),
        values=lambda name, live: live[source[name]].clone(),
        moments=lambda moment, name: moment[source[name]].clone(),
    )
    return f"its policy is now a copy of {trainer.env.spec.agents[peer]}'s"


def reset(trainer: "Trainer", agent: int, peer: int | None) -> str:
    """The agent's last layers are drawn anew, as torch.nn.Linear begins."""
    utility: Any = trainer.networks["utility"]
    generator = torch.Generator().manual_seed(
        mix_seed(trainer.config.seed, 5 + trainer.counters.env_steps * len(trainer.env.spec.agents) + agent)
    )
    widths = {name: module.weight.shape[-1] for name, module in utility.named_modules() if isinstance(module, AgentLinear)}

    def drawn(name: str, live: Tensor) -> Tensor:
        bound = 1 / math.sqrt(widths[name.rpartition(".")[0]])
        return (2 * torch.rand(live[parts[name]].shape, generator=generator) - 1) * bound

    parts = _last_layers(utility, agent)
    _write(trainer, parts, values=drawn, moments=lambda moment, name: torch.zeros_like(moment[parts[name]]))
    what = "the weights of its id were" if utility.first.share else "its last layers were"
    return f"{what} drawn anew, and its epsilon is {first_boost(trainer.config):g} at first"


def _weights_stay(sentence: str) -> "Callable[[Trainer, int, int | None], str]":
    return lambda trainer, agent, peer: sentence


def _refuse_transplant(config: Config, env: TeamEnv) -> None:
    spec = env.spec
    if len({_shape(spec, agent) for agent in range(spec.num_agents)}) > 1:
        raise ConfigError(
            f"--cure transplant: the agents of {spec.name} observe or do different things, so no policy fits in another's place",
            remedy="--cure reset",
        )


def _shape(spec: TeamSpec, agent: int) -> tuple[Sequence[str], int]:
    """What an agent can do, and how many things it sees."""
    return (spec.action_names[agent] if spec.action_names else (), len(spec.obs_names[agent]) if spec.obs_names else 0)


def _refuse_reset(config: Config, env: TeamEnv) -> None:
    if config.algo == "coma":
        raise ConfigError("--cure reset explores by epsilon, and coma explores by its own policies", remedy="--cure transplant")


def _refuse_counterfactual(config: Config, env: TeamEnv) -> None:
    if config.algo != "iql":
        raise ConfigError(
            f"--cure counterfactual pays one agent for itself, but {config.algo} learns one value of the whole team: use --algo iql"
        )
    if config.agent_reward != "team":
        raise ConfigError(f"--cure counterfactual: with --agent-reward {config.agent_reward} every agent is paid for itself already")
    make_agent_reward(config, env, "difference")


def _refuse_diligence(config: Config, env: TeamEnv) -> None:
    if config.algo == "coma" or config.agent_reward != "team":
        raise ConfigError("--cure diligence adds to the team's reward: it is for iql, vdn and qmix without --agent-reward")
    refuse_diligence(env)


CURES: dict[str, Cure] = {
    "transplant": Cure("a copy of the best teammate's policy", _refuse_transplant, transplant, 0.1, needs_peer=True),
    "reset": Cure("last layers drawn anew, with an exploration boost", _refuse_reset, reset, 0.3),
    "counterfactual": Cure(
        "paid its own difference reward (iql)", _refuse_counterfactual, _weights_stay("from now on it is paid its difference reward"), 0.5
    ),
    "diligence": Cure(
        "a fading bonus for changing its surroundings", _refuse_diligence, _weights_stay("it is paid a fading bonus for diligence"), 0.5
    ),
}
"""By name."""


def refuse_cure(config: Config, env: TeamEnv) -> None:
    """ConfigError where the run is to intervene with a cure that there is not, or that it cannot have."""
    if config.watch.on_lazy != "intervene":
        return
    name = config.watch.cure
    if name not in CURES:
        raise ConfigError(f'no cure "{name}".{suggest(name, CURES)} There are: {", ".join(CURES)}')
    CURES[name].refuse(config, env)


def treat(trainer: "Trainer", agent: int, peer: int | None) -> tuple[Treatment, str]:
    """Begin the configured cure of an agent; what was done, in words. `peer`: the learning teammate with the largest effect."""
    name, now = trainer.config.watch.cure, trainer.counters.env_steps
    cure = CURES[name]
    done = cure.operate(trainer, agent, peer)
    treatment = Treatment(name, agent, now, now + math.ceil(cure.lasts * max(trainer.config.steps - now, 0)))
    trainer.treatments = (*trainer.treatments, treatment)
    return treatment, done


def first_boost(config: Config) -> float:
    """Epsilon with which a reset agent begins."""
    return max(BOOST, config.exploration.start)


def exploring(treatments: Sequence[Treatment], epsilon: float, env_steps: int, num_agents: int, boost: float = BOOST) -> float | Tensor:
    """The agents' epsilon: `epsilon`, and of agents that were reset more, `boost` at first; a plain number where nobody is treated so."""
    boosts = {each.agent: each.left(env_steps) for each in treatments if each.cure == "reset"}
    if not any(boosts.values()):
        return epsilon
    return torch.tensor([epsilon + max(boost - epsilon, 0.0) * boosts.get(agent, 0.0) for agent in range(num_agents)])


def treated_team(config: Config, team: Team, treatments: Sequence[Treatment], env_steps: int, own: Pay | None) -> Team:
    """The team as it collects: what its treated agents are paid now. `own`: difference rewards of all agents, where that is the cure."""
    if config.watch.on_lazy != "intervene" or config.watch.cure not in ("counterfactual", "diligence"):
        return team
    diligent = tuple((each.agent, WEIGHT * each.left(env_steps)) for each in treatments if each.cure == "diligence")
    pay = TreatedPay(own, tuple(each.agent for each in treatments if each.cure == "counterfactual"), diligent)
    if config.pays_agents:
        return replace(team, pay=pay)
    return replace(team, bonus=pay) if any(weight for _, weight in diligent) else team
