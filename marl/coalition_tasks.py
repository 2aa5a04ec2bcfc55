"""The games whose credit is known (credit/games.py) as one-step tasks: `native/coalition-airport-6` and its like.

A name says the game and its numbers:

    airport-6        costs 1..6                          majority-5-3     5 agents, 3 needed
    glove-1-2        1 left, 2 right gloves              unanimity-3-2    3 agents, the first 2 needed, the others dummies
    vote-4-3-2-1-1   quota 4, weights 3, 2, 1, 1         additive-4-1     4 agents worth 1, 2, 3 and, the last 1, nothing
    either-or        a pair who can stand in for each    pairs-6-0        random 2-additive game of 6 agents, seed 0
                     other, and a worker                 harmful          two workers and a saboteur

`true_game` gives the game itself, with its true Shapley and leave-one-out values.
"""

from collections.abc import Callable

import torch

from ..credit import games
from ..credit.games import TrueGame
from ..envs.coalition import CoalitionTask


def _unanimity(num_agents: int, needed: int) -> TrueGame:
    if not 1 <= needed <= num_agents:
        raise ValueError(f"needed is {needed}; unanimity among {num_agents} agents needs 1 to {num_agents} of them")
    return games.unanimity(num_agents, range(needed))


def _additive(num_agents: int, dummies: int) -> TrueGame:
    if not 0 <= dummies <= num_agents:
        raise ValueError(f"{dummies} dummies among {num_agents} agents: give 0 to {num_agents}")
    return games.additive([*range(1, num_agents - dummies + 1), *[0] * dummies])


GAMES: dict[str, Callable[..., TrueGame]] = {
    "airport": lambda num_agents: games.airport(range(1, num_agents + 1)),
    "glove": games.glove,
    "majority": games.majority,
    "vote": lambda quota, *weights: games.weighted_vote(quota, weights),
    "unanimity": _unanimity,
    "either-or": games.either_or_with_worker,
    "harmful": games.harmful_agent,
    "additive": _additive,
    "pairs": lambda num_agents, seed: games.random_two_additive(num_agents, torch.Generator().manual_seed(seed)),
}
"""Name -> maker, from the numbers that follow the name. envs/registry.py holds the pattern of their ids."""


def true_game(name: str) -> TrueGame:
    """The game of a name such as "airport-6" (a full id is taken too); ValueError for a name or numbers that stand for none."""
    plain = name.removeprefix("native/").removeprefix("coalition-")
    kind = next((kind for kind in GAMES if plain == kind or plain.startswith(f"{kind}-")), None)
    numbers = [] if kind is None else plain.removeprefix(kind).split("-")[1:]
    if kind is None or not all(number.isdecimal() for number in numbers):
        raise ValueError(f"no coalition game is called {name!r}. There are: {', '.join(GAMES)}, each followed by its numbers")
    try:
        return GAMES[kind](*map(int, numbers))
    except TypeError as error:
        raise ValueError(f"coalition game {name!r}: {kind} does not go with {len(numbers)} number(s)") from error


def coalition_task(game: str = "airport-6") -> CoalitionTask:
    """The task of a named game."""
    truth = true_game(game)
    return CoalitionTask(truth, truth.num_agents, name=f"coalition-{game.removeprefix('native/').removeprefix('coalition-')}")
