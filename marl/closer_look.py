"""A closer look at agents of small effect: what tells a lazy one from one that is redundant, not needed, or rides free.

    phi_i(rho)   the Shapley value, per reference: what i earns on average over all orders of joining (exact up to 5 agents)
    I_ij(rho)    v(N) - v(N-i) - v(N-j) + v(N-i-j): below 0, i matters more without j. j is a *substitute* if the upper end of its interval
                 lies below 0, |I_ij| reaches the margin, and i's own effect without j, v(N-j) - v(N-i-j), is above 0 and reaches the
                 margin too (intervals with Bonferroni over teammates, references and agents looked at). Without the last, an idler that
                 does less harm where a teammate is gone would pass for its stand-in
    H_i          room for another policy in its place (headroom.py)
    u_i          influence (influence.py)

Every figure is of episodes that nothing else is measured on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..credit.base import EpisodeGame
from ..credit.classes import CloserLook
from ..credit.intervals import mean_interval
from ..credit.margin import Margin
from ..credit.shapley import shapley
from ..envs.base import TeamEnv
from ..envs.native import NativeEnv
from .evaluate import LOOK_SEEDS
from .headroom import Headroom, measure_headroom
from .inspection import episode_game
from .policies import Policy, Team
from .references import Stand

SHARE_EPISODES = 128
"""Paired episodes behind Shapley values and interactions; half as many where environments are stepped one by one."""
INFLUENCE_AT, SHARES_AT, HEADROOM_AT = 0, 1_000, 2_000
"""Where the seeds of each question begin, after LOOK_SEEDS."""
BEST_RESPONSE = "its best response"
Respond = Callable[[int], tuple[Policy, int]]
"""respond(agent) -> a policy trained for this agent beside these teammates, and the env steps it took."""


@dataclass(frozen=True)
class Shares:
    """What the coalitions say, for the agents looked at."""

    phi: Float[Tensor, "reference agent"]
    """Shapley values of all agents, in team return."""
    substitutes: dict[int, tuple[int, ...]]
    """Per agent looked at, the teammates that do what it leaves."""
    env_steps: int


def closer_look(
    env: TeamEnv,
    team: Team,
    agents: Sequence[int],
    *,
    margin: Margin,
    stands: Sequence[Stand],
    candidates: Mapping[str, Policy],
    influence: Sequence[float | None] | None = None,
    respond: Respond | None = None,
    pays: Callable[[int], bool] = lambda agent: False,
    alpha: float = 0.05,
    max_pairs: int = 512,
    batch: int = 32,
    episodes: int | None = None,
    shift: int = 0,
    return_range: tuple[float, float] | None = None,
    stated: bool = False,
) -> list[CloserLook]:
    """What a closer look finds at each of these agents, in their order; the env steps are of the whole look, split evenly.

    Args:
        margin: the one the effects were judged by.
        stands: its references, with their policies.
        candidates: tried in each agent's place (headroom.py).
        influence: per agent of the team (influence.py).
        respond: makes one more candidate for an agent.
        pays: whether idling is known to pay for an agent; what its own rewards say is added.
        alpha: P(room wrongly shown for any of these agents), and P(wrongly excluded).
        max_pairs: of the race of candidates.
        episodes: behind Shapley values and interactions.
        shift: added to every episode seed.
        return_range, stated: as `Worlds`.
    """
    first = LOOK_SEEDS + shift
    shares = measure_shares(env, team, agents, stands, margin, alpha=alpha, episodes=episodes, first_seed=first + SHARES_AT)
    trained = {agent: respond(agent) for agent in agents} if respond is not None else {}
    own = {agent: (BEST_RESPONSE, policy) for agent, (policy, _) in trained.items()}
    rooms, steps = measure_headroom(
        env, team, agents, candidates, margin, own=own, alpha=alpha, max_pairs=max_pairs, batch=batch, first_seed=first + HEADROOM_AT,
        return_range=return_range, stated=stated,
    )  # fmt: skip
    steps += shares.env_steps + sum(taken for _, taken in trained.values())
    names = env.spec.agents

    def found(agent: int, room: Headroom, part: int) -> CloserLook:
        return CloserLook(
            share=tuple(shares.phi[:, agent].tolist()),
            substitutes=tuple(names[mate] for mate in shares.substitutes[agent]),
            headroom=room.gain,
            stand_in=room.stand_in,
            room=room.room,
            influence=None if influence is None else influence[agent],
            gains_by_idling=room.costs_itself or pays(agent),
            env_steps=part,
        )

    parts = [steps // len(agents) + (number < steps % len(agents)) for number in range(len(agents))]
    return [found(agent, room, part) for agent, room, part in zip(agents, rooms, parts, strict=True)]


def measure_shares(
    env: TeamEnv,
    team: Team,
    agents: Sequence[int],
    stands: Sequence[Stand],
    margin: Margin,
    *,
    alpha: float = 0.05,
    episodes: int | None = None,
    first_seed: int = LOOK_SEEDS + SHARES_AT,
) -> Shares:
    """Shapley values under each reference, and who stands in for whom, from the same paired episodes."""
    default = SHARE_EPISODES if isinstance(env, NativeEnv) else SHARE_EPISODES // 2
    n, indices = env.spec.num_agents, torch.arange(default if episodes is None else episodes)
    level = alpha / (len(agents) * max(n - 1, 1) * len(stands))
    phi, env_steps = [], 0
    substitutes = torch.zeros(n, n, dtype=torch.bool)
    for number, stand in enumerate(stands):
        game = episode_game(env, team, stand, first_seed=first_seed)
        generator = torch.Generator().manual_seed(0)
        phi.append(shapley(game, n, episodes=indices, generator=generator, reference=stand.reference.name).value)
        for agent in agents:
            pairs, alone = interactions_of(game, agent, indices)
            known = None if margin.approximate else margin.bound
            wide = {"bound": 2 * known} if known else {"worst": 2 * margin.bound}
            _, high, _ = mean_interval(pairs, confidence=1 - 2 * level, **wide)
            low, _, _ = mean_interval(alone, bound=known, worst=None if known else margin.bound, confidence=1 - 2 * level)
            least = margin.delta[number]
            substitutes[agent] |= (high < 0) & (pairs.mean(-1).abs() >= least) & (low > 0) & (alone.mean(-1) >= least)
        env_steps += game.env_steps
    return Shares(torch.stack(phi), {agent: tuple(substitutes[agent].nonzero().flatten().tolist()) for agent in agents}, env_steps)


def interactions_of(
    game: EpisodeGame, agent: int, episodes: Int[Tensor, " episode"]
) -> tuple[Float[Tensor, "agent episode"], Float[Tensor, "agent episode"]]:
    """I_ij at the full team, and the agent's effect without j, v(N-j) - v(N-i-j), for every teammate j in each episode; 0 for itself."""
    n = game.num_agents
    out = torch.eye(n, dtype=torch.bool)
    without_j, without_both = ~out, ~(out | out[agent])
    everyone = torch.ones(1, n, dtype=torch.bool)
    values = game.play(torch.cat([everyone, ~out[agent].unsqueeze(0), without_j, without_both]), episodes)
    alone = values[2 : 2 + n] - values[2 + n :]
    found = values[0] - values[1] - alone
    found[agent] = alone[agent] = 0.0
    return found, alone


def pays_by_timeline(lines: Sequence[Mapping[str, object]], names: Sequence[str], least: float) -> Bool[Tensor, " agent"]:
    """From a run's credit timeline: the agent's effect fell by `least` over training while its teammates' together rose by as much.

    First third against last third of the timeline's entries; False for all with fewer than six, or without effects.
    """
    rows = []
    for line in lines:
        entry = line.get("credit")
        effects = [_effect(entry.get(name)) for name in names] if isinstance(entry, Mapping) else [None]
        if all(effect is not None for effect in effects):
            rows.append(effects)
    if len(rows) < 6:
        return torch.zeros(len(names), dtype=torch.bool)
    table, third = torch.tensor(rows, dtype=torch.float64), len(rows) // 3
    rise = table[-third:].mean(0) - table[:third].mean(0)
    return (rise <= -least) & (rise.sum() - rise >= least)


def _effect(entry: object) -> float | None:
    """One agent's effect in a line of the timeline: {"effect": x}, or the mean of {reference: {"effect": x}}."""
    if not isinstance(entry, Mapping):
        return None
    items = [entry] if "effect" in entry else [item for item in entry.values() if isinstance(item, Mapping)]
    values = [item["effect"] for item in items if isinstance(item.get("effect"), float | int)]
    return sum(values) / len(values) if values else None
