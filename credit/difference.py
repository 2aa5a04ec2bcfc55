"""Difference rewards: what the team would lose if one agent, and only that one, followed the reference instead.

    D_i = G(z) - G(z_-i, c_i)          (Wolpert and Tumer 2001)

`leave_one_out` is the whole-episode version: agent i follows the reference from reset to end, and its teammates go on
deciding for themselves. It is an agent's value *to the team as it is*: of two agents that can stand in for each other both
get 0, so read it beside the Shapley value.
"""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .base import CachedGame, CoalitionGame, Credit, EpisodeGame, check_num_agents, episode_indices, without_each
from .intervals import mean_interval

_ESTIMAND = "team value lost when this agent alone follows the reference for the whole episode; teammates may respond"


def difference_reward(team: Float[Tensor, "*batch"], replaced: Float[Tensor, "*batch agent"]) -> Float[Tensor, "*batch agent"]:
    """D_i = G(z) - G(z_-i, c_i): `replaced[..., i]` is the team's reward had agent i taken its default action. Same unit as `team`."""
    return team.unsqueeze(-1) - replaced


def aristocrat_utility(
    reward: Float[Tensor, "*batch agent action"], policy: Float[Tensor, "*batch agent action"], action: Int[Tensor, "*batch agent"]
) -> Float[Tensor, "*batch agent"]:
    """AU_i = G(z) - sum_a pi_i(a) G(z_-i, a): the difference reward against the agent's own average action.

    Args:
        reward: `reward[..., i, a]` is the team's reward had agent i played a and the others their actual action.
        policy: pi_i; sums to 1 over actions.
        action: the joint action taken.

    Returns:
        In the unit of `reward`. Its mean under pi_i is 0 for *every* agent, so it trains but cannot rank agents.
    """
    taken = reward.gather(-1, action.unsqueeze(-1)).squeeze(-1)
    return taken - torch.einsum("...a,...a->...", policy.to(reward.dtype), reward)


def leave_one_out(
    game: CoalitionGame | EpisodeGame,
    num_agents: int,
    *,
    episodes: "Int[Tensor, ' episode'] | int | None" = None,
    bound: float | None = None,
    confidence: float = 0.95,
    reference: str = "the absent agents' reference",
    unit: str = "team return",
) -> Credit:
    """v(N) - v(N without i) for each agent; arguments as in `shapley`.

    An episode game gives paired differences D_k, one per episode, and an interval for their mean: the betting bound if `bound`, the
    width of one episode's possible team return, is known (guaranteed, also for rare decisive events); else t with one imaginary
    episode at the largest return difference seen (approximate). `total` is NaN: the empty team is not played.
    """
    check_num_agents(num_agents)
    words = {"estimand": _ESTIMAND, "method": "leave-one-out", "reference": reference, "unit": unit}
    if not isinstance(game, EpisodeGame):
        if episodes is not None:
            raise ValueError("`episodes` was given, but the game is a plain function of coalitions; wrap a simulator in EpisodeGame")
        cached = CachedGame(game, num_agents)
        values = cached(without_each(num_agents))
        return Credit(
            value=difference_reward(values[-1], values[:-1]),
            low=None,
            high=None,
            total=float("nan"),
            evaluations=cached.evaluations,
            episodes=0,
            env_steps=0,
            resampled="nothing: the value is exact",
            approximate=False,
            **words,
        )
    if game.num_agents != num_agents:
        raise ValueError(f"num_agents is {num_agents}, but the episode game has {game.num_agents} agents")
    return _from_episodes(game, episode_indices(episodes), bound, confidence, words)


def wonderful_life(
    game: CoalitionGame | EpisodeGame,
    num_agents: int,
    *,
    episodes: "Int[Tensor, ' episode'] | int | None" = None,
    bound: float | None = None,
) -> Credit:
    """G(z) - G(z without i): leave-one-out for a game whose v(C) is the value of a world in which *only* C's members exist.

    Another estimand than `leave_one_out` with a policy in the agent's place: who is not in the world bumps into nobody, is seen by
    nobody, and takes no food (the agent clamped to nothing; Wolpert and Tumer 2001). Arguments as in `leave_one_out`.
    """
    found = leave_one_out(game, num_agents, episodes=episodes, bound=bound, reference="out of the world")
    return replace(found, estimand="team value lost when this agent is not in the world at all", method="wonderful life utility")


def _from_episodes(game: EpisodeGame, episodes: Tensor, bound: float | None, confidence: float, words: dict[str, str]) -> Credit:
    steps, evaluations = game.env_steps, game.evaluations
    values = game.play(without_each(game.num_agents), episodes)
    differences = values[-1] - values[:-1]
    low, high, how = mean_interval(differences, bound=bound, worst=game.highest - game.lowest, confidence=confidence)
    return Credit(
        value=differences.mean(-1),
        low=low,
        high=high,
        total=float("nan"),
        evaluations=game.evaluations - evaluations,
        episodes=len(episodes),
        env_steps=game.env_steps - steps,
        resampled=f"{len(episodes)} paired episodes; {how}",
        approximate=bound is None,
        **words,
    )
