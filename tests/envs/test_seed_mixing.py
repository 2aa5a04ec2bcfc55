"""Seeds of episodes, mixed in plain integers, are those that the tensors' mixing gives."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from teamcredit.envs.randomness import _scramble, copy_seeds, fold, mix_seed

torch.set_num_threads(1)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4))
def test_mixing_integers_is_mixing_tensors(values):
    key = torch.zeros((), dtype=torch.int64)
    for value in values:
        key = fold(key, torch.tensor(value))
    assert mix_seed(*values) == int(_scramble(key)) & 0x7FFFFFFF


def test_seeds_of_runs_made_before_are_the_same():
    assert mix_seed(int(copy_seeds(1, 1)[0]), 3) == 271362740
    assert mix_seed() == 0
