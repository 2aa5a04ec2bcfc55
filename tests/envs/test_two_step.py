"""The two-step game: every play of it, by hand."""

import itertools

import pytest
import torch
from teamcredit.envs.two_step import TwoStep

PAYOFF = {0: [[7, 7], [7, 7]], 1: [[0, 1], [1, 8]]}


@pytest.mark.parametrize(("first", "ignored", "left", "right"), list(itertools.product((0, 1), repeat=4)))
def test_every_play_pays_what_the_paper_says(first, ignored, left, right):
    env = TwoStep()
    state, view = env.reset(torch.zeros(1, dtype=torch.int64))
    assert view.obs.tolist() == [[[1, 0, 0], [1, 0, 0]]]
    state, step, view = env.step(state, torch.tensor([[first, ignored]]))
    assert (step.reward.item(), step.terminated.item(), step.truncated.item()) == (0, False, False)
    assert view.state.tolist() == [[0, 1 - first, first]]
    state, step, view = env.step(state, torch.tensor([[left, right]]))
    assert (step.reward.item(), step.terminated.item()) == (PAYOFF[first][left][right], True)
    assert step.after.state.tolist() == [[0, 1 - first, first]]
    assert view.state.tolist() == [[1, 0, 0]]
