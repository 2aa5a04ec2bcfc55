"""Our foraging against lbforaging 2.0.0: boards are copied from the reference and both take the same actions."""

import numpy as np
import pytest
import torch
from teamcredit.envs.foraging import Foraging
from teamcredit.envs.native import NativeState
from teamcredit.envs.randomness import Clock, copy_seeds

ForagingEnv = pytest.importorskip("lbforaging.foraging").ForagingEnv

CONFIGS = {
    "8x8-2p-3f": {"rows": 8, "cols": 8, "num_players": 2, "num_food": 3},
    "10x10-3p-3f": {"rows": 10, "cols": 10, "num_players": 3, "num_food": 3},
    "15x15-4p-5f": {"rows": 15, "cols": 15, "num_players": 4, "num_food": 5},
    "crowded": {"rows": 5, "cols": 5, "num_players": 5, "num_food": 1},
    "sight 2": {"rows": 8, "cols": 8, "num_players": 3, "num_food": 3, "sight": 2},
    "sight 1": {"rows": 6, "cols": 6, "num_players": 4, "num_food": 2, "sight": 1},
    "coop": {"rows": 6, "cols": 6, "num_players": 3, "num_food": 2, "force_coop": True},
    "penalty": {"rows": 6, "cols": 6, "num_players": 3, "num_food": 2, "penalty": 0.1},
    "one level each": {"rows": 8, "cols": 8, "num_players": 4, "num_food": 3, "player_levels": [1, 2, 3, 4]},
    "single food level": {"rows": 6, "cols": 6, "num_players": 2, "num_food": 2, "max_food_level": 1},
    "levels 1 to 4, not normalised": {
        "rows": 7, "cols": 7, "num_players": 3, "num_food": 2, "max_player_level": 4, "normalize_reward": False, "penalty": 0.5,
    },
}  # fmt: skip


def reference_of(options: dict) -> ForagingEnv:
    return ForagingEnv(
        players=options["num_players"],
        min_player_level=options.get("player_levels", options.get("min_player_level", 1)),
        max_player_level=options.get("player_levels", options.get("max_player_level", 2)),
        min_food_level=1,
        max_food_level=options.get("max_food_level"),
        field_size=(options["rows"], options["cols"]),
        max_num_food=options["num_food"],
        sight=options.get("sight", max(options["rows"], options["cols"])),
        max_episode_steps=50,
        force_coop=options.get("force_coop", False),
        normalize_reward=options.get("normalize_reward", True),
        penalty=options.get("penalty", 0.0),
    )


def board_of(reference) -> tuple[list, list]:
    """(foods, players) as our tensors keep them."""
    field = reference.field
    foods = [[int(row), int(col), int(field[row, col])] for row, col in np.argwhere(field)]
    return foods + [[-1, -1, 0]] * (reference.max_num_food - len(foods)), [[*map(int, p.position), int(p.level)] for p in reference.players]


def valid_of(reference) -> list:
    return [[any(action.value == a for action in reference._valid_actions[p]) for a in range(6)] for p in reference.players]


def compare(name: str, episodes: int) -> dict[str, int]:
    """Play `episodes` of both in lock step, exactly; returns how often the rare things happened."""
    options = CONFIGS[name]
    env, rng = Foraging(**options), np.random.default_rng(episodes)
    references = [reference_of(options) for _ in range(episodes)]
    seen = np.stack([reference.reset(seed=k)[0] for k, reference in enumerate(references)])
    foods, players = zip(*map(board_of, references), strict=True)
    task = env.place(torch.tensor(foods), torch.tensor(players))
    running = torch.zeros(episodes, dtype=torch.bool)
    state = NativeState(task=task, clock=Clock.start(torch.arange(episodes)), terminated=running, truncated=running)
    view, live = env.observe(task), list(range(episodes))
    happened = {"shared cell": 0, "cleared": 0, "loaded": 0, "failed load": 0, "time over": 0}
    while live:
        assert torch.equal(view.obs[live], torch.tensor(seen[live]))
        valid = np.array([valid_of(references[k]) for k in live])
        assert torch.equal(view.available[live], torch.tensor(valid))
        action = rng.integers(0, 6, size=(episodes, env.num_players))
        # Loading at random is rare: half of those beside a food load; half of the rest choose among valid actions.
        action[live] = np.where(valid[..., 5] & (rng.random(valid.shape[:2]) < 0.5), 5, action[live])
        wise = np.where(valid, rng.random(valid.shape), -1.0).argmax(-1)
        action[live] = np.where(rng.random(valid.shape[:2]) < 0.5, wise, action[live])
        if env.scripted:  # and a fifth of all play is good play
            good = env.scripted["forager"](view.obs, view.available).numpy()
            action = np.where(rng.random(action.shape) < 0.2, good, action)
        state, step, view = env.step(state, torch.tensor(action), autoreset=False)
        still = []
        for k in live:
            loads = [references[k].adjacent_food(*p.position) > 0 and a == 5 for p, a in zip(references[k].players, action[k], strict=True)]
            obs, reward, done, _, _ = references[k].step(action[k].tolist())
            seen[k] = np.stack(obs)
            assert step.agent_reward[k].tolist() == torch.tensor(reward, dtype=torch.float64).float().tolist()
            assert step.reward[k].item() == torch.tensor(sum(reward), dtype=torch.float64).float().item()
            cleared = references[k].field.sum() == 0
            assert (bool(step.terminated[k]), bool(step.truncated[k])) == (cleared, done and not cleared)
            happened["shared cell"] += len({p.position for p in references[k].players}) < env.num_players
            happened["cleared"] += cleared
            happened["time over"] += done and not cleared
            happened["loaded"] += sum(reward) > 0
            happened["failed load"] += any(loads) and sum(reward) <= 0
            if not done:
                still.append(k)
        ended = sorted(set(live) - set(still))
        assert torch.equal(view.obs[ended], torch.tensor(seen[ended]))
        live = still
    return happened


@pytest.mark.parametrize("name", CONFIGS)
def test_whole_episodes_equal_lbforaging(name):
    happened = compare(name, 12)
    assert happened["loaded"] > 0
    assert happened["failed load"] > 0 or name == "single food level"


def test_the_rare_cases_are_among_those_compared():
    happened = compare("crowded", 20)
    assert min(happened["shared cell"], happened["cleared"]) > 0
    assert compare("coop", 6)["time over"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_a_thousand_episodes_equal_lbforaging(name):
    happened = compare(name, 1000)
    assert happened["loaded"] > 100


def chi_square(first: torch.Tensor, second: torch.Tensor) -> float:
    """Two-sample statistic of two histograms of equal totals, in standard deviations above its mean."""
    used = (first + second) > 0
    first, second = first[used].double(), second[used].double()
    degrees = int(used.sum()) - 1
    return float((((first - second) ** 2 / (first + second)).sum() - degrees) / (2 * degrees) ** 0.5)


def histogram(boards: torch.Tensor, size: int) -> torch.Tensor:
    return torch.bincount(boards.flatten(), minlength=size)


@pytest.mark.parametrize("name", ["8x8-2p-3f", "10x10-3p-3f", "coop", "levels 1 to 4, not normalised"])
def test_fresh_boards_are_distributed_as_the_references(name):
    """Cells of players, cells of foods, player levels, and joint (player levels, food level) at each place in the order."""
    options, count = CONFIGS[name], 1500
    env, theirs = Foraging(**options), []
    reference = reference_of(options)
    for k in range(count):
        for player in reference.players:
            player.position = None  # as in a fresh environment: later resets would avoid the last episode's cells
        reference.reset(seed=k)
        theirs.append(board_of(reference))
    task = env.reset(copy_seeds(3, count))[0].task
    ours = {"foods": task.foods, "players": task.players}
    theirs = {"foods": torch.tensor([b[0] for b in theirs]), "players": torch.tensor([b[1] for b in theirs])}
    cells = env.rows * env.cols
    for what in ours:
        cell = [board[what][..., 0] * env.cols + board[what][..., 1] for board in (ours, theirs)]
        assert chi_square(*(histogram(c, cells) for c in cell)) < 4
        level = [board[what][..., 2] for board in (ours, theirs)]
        assert chi_square(*(histogram(x, 16) for x in level)) < 4
    joint = [board["players"][..., 2].sort(1).values[:, :3].sum(1, keepdim=True) * 16 + board["foods"][..., 2] for board in (ours, theirs)]
    assert chi_square(*(histogram(x, 512) for x in joint)) < 4
    gap = [board["foods"][:, 0, :2] - board["players"][:, 0, :2] + 16 for board in (ours, theirs)]
    assert chi_square(*(histogram(x[:, 0].abs() * 32 + x[:, 1], 2048) for x in gap)) < 4
