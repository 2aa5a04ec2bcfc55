"""Golden results of papers: where value decomposition ends on games whose answer is known exactly.

The basins are of the best additive fit (VDN) and of monotone fits (QMIX) to the payoff under uniform exploration.
QMIX on the game of arXiv:1905.05408 has two local optima: everything beside the best entry pooled at -8 with 0 elsewhere (where
training lands), and 8 with -6 elsewhere (the best monotone fit).
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from teamcredit.envs.matrix import GAMES
from teamcredit.marl import checkpoint
from teamcredit.marl.evaluate import evaluate
from teamcredit.marl.policies import Team
from teamcredit.marl.run import Run, train
from teamcredit.marl.trainer import load_networks, make_learner

SEEDS = range(5)
UNIFORM = {
    "exploration.start": 1.0, "exploration.end": 1.0, "network.hidden": 32, "network.layers": 1, "network.layer_norm": False,
    "mixer.embed_dim": 8, "mixer.hyper_dim": 16, "learner.lr": 5e-3, "learner.lr_decay": "linear", "learner.target": "none",
    "replay.sampling": "uniform", "replay.num_envs": 256, "replay.rollout_steps": 2, "replay.capacity": 16_384,
    "replay.minibatch_size": 512, "replay.replay_ratio": 8, "evaluation.every": 1_000_000, "evaluation.final_episodes": 1,
}  # fmt: skip


def play_matrix(game: str, algo: str, out: Path, *, seed: int = 0, steps: int = 49_152) -> tuple[torch.Tensor, list[int]]:
    """Q_tot of every joint action, and the greedy joint action, after uniform exploration of a one-step game."""
    run = train("native/matrix-climbing", algo=algo, steps=steps, seed=seed, options=UNIFORM | {"env.game": GAMES[game]}, out=out)
    networks = make_learner(run.config, run.env).make_networks(0)
    load_networks(networks, checkpoint.read(run.checkpoint, ("networks",)))
    team: Team = run.team
    _, view = run.env.reset(torch.zeros(1, dtype=torch.int64))
    with torch.no_grad():
        (q,), _ = team.utility(view.obs, team.utility.initial_memory(1))
        joint = torch.cartesian_prod(torch.arange(3), torch.arange(3))
        values = networks["mixer"](q[torch.arange(2), joint], view.state.expand(9, -1))
    return values.view(3, 3), q.argmax(-1).tolist()


def best_additive(payoff: torch.Tensor) -> torch.Tensor:
    """The least-squares fit f(row) + g(column) under uniform data: row mean + column mean - mean."""
    return payoff.mean(1, keepdim=True) + payoff.mean(0, keepdim=True) - payoff.mean()


def greedy_return(run: Run) -> float:
    return evaluate(run, episodes=1).mean


def two_step(algo: str, seed: int, out: Path, **options: Any) -> float:
    once = {"evaluation.every": 1_000_000, "evaluation.final_episodes": 1}
    return greedy_return(train(algo=algo, preset="two-step-paper", seed=seed, options=once | options, out=out))


@pytest.mark.slow
@pytest.mark.parametrize("algo, team_return", [("vdn", 7.0), ("qmix", 8.0)])
@pytest.mark.parametrize("seed", SEEDS)
def test_on_the_two_step_game_at_epsilon_1_vdn_settles_for_7_and_qmix_finds_8(algo, team_return, seed, tmp_path):
    assert two_step(algo, seed, tmp_path / "run") == team_return


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_annealed_exploration_lets_vdn_find_8(seed, tmp_path):
    """The paper's claim about VDN is one about uniform data."""
    assert two_step("vdn", seed, tmp_path / "run", **{"exploration.end": 0.05, "exploration.fraction": 0.3}) == 8.0


slow = pytest.mark.slow


@pytest.mark.parametrize(
    "game, picks", [("qtran", None), pytest.param("climbing-credit", [2, 2], marks=slow), pytest.param("qplex-3", None, marks=slow)]
)
def test_vdn_ends_at_the_best_additive_fit(game, picks, tmp_path):
    """So it picks the safe corner of the climbing game, and a wrong entry of the others (their best ones tie)."""
    payoff = torch.tensor(GAMES[game], dtype=torch.float32)
    values, greedy = play_matrix(game, "vdn", tmp_path / "run")
    assert (values - best_additive(payoff)).abs().max() < 0.3
    assert picks is None or greedy == picks
    assert payoff[tuple(greedy)] < payoff.max()


def test_the_best_additive_fits_are_those_of_the_literature():
    qtran, climbing = (best_additive(torch.tensor(GAMES[name], dtype=torch.float64)) for name in ("qtran", "climbing-credit"))
    assert qtran.round(decimals=3).tolist() == [[-6.222, -4.889, -4.889], [-4.889, -3.556, -3.556], [-4.889, -3.556, -3.556]]
    assert climbing.argmax() == 8
    assert climbing.max() == pytest.approx(8.78, abs=0.005)
    error = (best_additive(torch.tensor(GAMES["qplex-3"], dtype=torch.float64)) - torch.tensor(GAMES["qplex-3"])).square().sum()
    assert error == pytest.approx(580.4, abs=0.05)


@slow
@pytest.mark.parametrize("seed", range(3))
def test_qmix_ends_in_one_of_the_two_monotone_basins(seed, tmp_path):
    values, greedy = play_matrix("qtran", "qmix", tmp_path / "run", seed=seed)
    pooled = torch.tensor([[-8.0, -8.0, -8.0], [-8.0, 0.0, 0.0], [-8.0, 0.0, 0.0]])
    peaked = torch.full((3, 3), -6.0)
    peaked[0, 0] = 8.0
    distance = [float((values - basin).abs().max()) for basin in (pooled, peaked)]
    assert min(distance) < 0.5
    assert (greedy == [0, 0]) == (distance[1] < distance[0])
