"""Returns by hand, and against a loop that does one return at a time."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from teamcredit.marl.returns import lambda_returns, n_step_returns, trace_returns

NAN = float("nan")
examples = settings(deadline=None, derandomize=True, max_examples=60)


def flags(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.bool)


# Four steps: an episode truncated after step 1, then two steps of one that goes on.
REWARD, NEXT = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([10.0, 20.0, 30.0, 40.0])
NONE, ALL, CUT = flags(0, 0, 0, 0), flags(1, 1, 1, 1), flags(0, 1, 0, 0)


def test_one_step_targets_bootstrap_everywhere_but_after_termination():
    found = lambda_returns(REWARD, NEXT, CUT, CUT, ALL, gamma=0.5, td_lambda=0.0)
    assert found.tolist() == [1 + 0.5 * 10, 2, 3 + 0.5 * 30, 4 + 0.5 * 40]


def test_a_truncated_episode_bootstraps_from_its_last_view():
    found = lambda_returns(REWARD, NEXT, NONE, CUT, ALL, gamma=0.5, td_lambda=1.0)
    last = 4 + 0.5 * 40
    assert found.tolist() == [1 + 0.5 * (2 + 0.5 * 20), 2 + 0.5 * 20, 3 + 0.5 * last, last]


def test_a_terminated_episode_pays_its_rewards_and_nothing_after():
    found = lambda_returns(REWARD, NEXT, CUT, CUT, ALL, gamma=0.5, td_lambda=1.0)
    last = 4 + 0.5 * 40
    assert found.tolist() == [1 + 0.5 * 2, 2, 3 + 0.5 * last, last]


def test_td_lambda_mixes_value_and_return():
    found = lambda_returns(REWARD, NEXT, NONE, CUT, ALL, gamma=0.5, td_lambda=0.8)
    second, last = 2 + 0.5 * 20, 4 + 0.5 * 40
    expected = [1 + 0.5 * (0.2 * 10 + 0.8 * second), second, 3 + 0.5 * (0.2 * 30 + 0.8 * last), last]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_n_step_returns_by_hand():
    found = n_step_returns(REWARD, NEXT, NONE, NONE, ALL, gamma=0.5, n_step=2)
    assert found.tolist() == [1 + 0.5 * 2 + 0.25 * 20, 2 + 0.5 * 3 + 0.25 * 30, 3 + 0.5 * 4 + 0.25 * 40, 4 + 0.5 * 40]


def test_n_step_returns_stop_at_an_episodes_end():
    truncated = n_step_returns(REWARD, NEXT, NONE, CUT, ALL, gamma=0.5, n_step=3)
    assert truncated.tolist() == [1 + 0.5 * 2 + 0.25 * 20, 2 + 0.5 * 20, 3 + 0.5 * 4 + 0.25 * 40, 4 + 0.5 * 40]
    terminated = n_step_returns(REWARD, NEXT, CUT, CUT, ALL, gamma=0.5, n_step=3)
    assert terminated.tolist() == [1 + 0.5 * 2, 2, 3 + 0.5 * 4 + 0.25 * 40, 4 + 0.5 * 40]


@pytest.mark.parametrize("padding", [100.0, NAN])
@pytest.mark.parametrize("ended", ["running", "truncated", "terminated"])
@pytest.mark.parametrize("returns", [{"td_lambda": 0.0}, {"td_lambda": 0.8}, {"td_lambda": 1.0}, {"n_step": 2}, {"n_step": 5}])
def test_what_stands_in_padded_rows_changes_no_target_of_a_real_row(padding, ended, returns):
    """The leak of oxwhirl/pymarl#109: an episode shorter than its batch, cut by a limit."""
    valid = flags(1, 1, 0, 0)
    done = CUT if ended != "running" else NONE
    terminated = CUT if ended == "terminated" else NONE
    function = lambda_returns if "td_lambda" in returns else n_step_returns
    alone = function(REWARD[:2], NEXT[:2], terminated[:2], done[:2], valid[:2], gamma=0.9, **returns)
    reward, next_value = REWARD.clone(), NEXT.clone()
    reward[2:], next_value[2:] = padding, padding
    padded = function(reward, next_value, terminated, done, valid, gamma=0.9, **returns)
    assert torch.equal(padded[:2], alone)


@pytest.mark.parametrize("returns", [{"td_lambda": 0.0}, {"td_lambda": 0.7}, {"n_step": 3}])
def test_the_value_after_termination_is_never_read(returns):
    function = lambda_returns if "td_lambda" in returns else n_step_returns
    clean = function(REWARD, NEXT, CUT, CUT, ALL, gamma=0.9, **returns)
    next_value = NEXT.clone()
    next_value[1] = NAN
    assert torch.equal(function(REWARD, next_value, CUT, CUT, ALL, gamma=0.9, **returns), clean)


def slow_lambda(reward, next_value, terminated, done, valid, gamma, td_lambda):
    """(1 - lambda) sum_m lambda^(m-1) G^(m), the longest one weighted with all that is left."""
    out = []
    for t in range(len(reward)):
        reach = steps_from(t, done, valid)
        returns = [slow_n_step(reward, next_value, terminated, done, valid, gamma, m)[t] for m in range(1, reach + 1)]
        weights = [(1 - td_lambda) * td_lambda ** (m - 1) for m in range(1, reach)] + [td_lambda ** (reach - 1)]
        out.append(sum(weight * value for weight, value in zip(weights, returns, strict=True)))
    return out


def slow_n_step(reward, next_value, terminated, done, valid, gamma, n_step):
    out = []
    for t in range(len(reward)):
        last = t + min(n_step, steps_from(t, done, valid)) - 1
        total = sum(gamma ** (k - t) * reward[k] for k in range(t, last + 1))
        out.append(total + gamma ** (last + 1 - t) * (0 if terminated[last] else next_value[last]))
    return out


def steps_from(t, done, valid):
    """How many steps a return from t may see."""
    last = t
    while not done[last] and last + 1 < len(done) and valid[last + 1]:
        last += 1
    return last - t + 1


@given(
    rows=st.lists(
        st.tuples(st.floats(-5, 5, width=32), st.floats(-5, 5, width=32), st.sampled_from(["on", "on", "cut", "end"]), st.booleans()),
        min_size=1,
        max_size=8,
    ),
    gamma=st.sampled_from([0.0, 0.9, 1.0]),
    td_lambda=st.sampled_from([0.0, 0.5, 1.0]),
    n_step=st.integers(1, 9),
)
@examples
def test_returns_equal_a_slow_loop(rows, gamma, td_lambda, n_step):
    reward, next_value, ends, valid = zip(*rows, strict=True)
    terminated, done = [end == "end" for end in ends], [end != "on" for end in ends]
    tensors = [torch.tensor(values, dtype=torch.float64) for values in (reward, next_value)]
    masks = [torch.tensor(values) for values in (terminated, done, valid)]
    expected = slow_lambda(reward, next_value, terminated, done, valid, gamma, td_lambda)
    found = lambda_returns(*tensors, *masks, gamma=gamma, td_lambda=td_lambda).tolist()
    assert all(math.isclose(a, b, abs_tol=1e-9) for a, b in zip(found, expected, strict=True))
    expected = slow_n_step(reward, next_value, terminated, done, valid, gamma, n_step)
    found = n_step_returns(*tensors, *masks, gamma=gamma, n_step=n_step).tolist()
    assert all(math.isclose(a, b, abs_tol=1e-9) for a, b in zip(found, expected, strict=True))


def test_lambda_1_is_n_step_without_end_and_lambda_0_is_one_step():
    torch.manual_seed(0)
    reward, next_value = torch.randn(6, 3), torch.randn(6, 3)
    terminated = torch.rand(6, 3) < 0.2
    done, valid = terminated | (torch.rand(6, 3) < 0.2), torch.rand(6, 3) < 0.8
    rest = (reward, next_value, terminated, done, valid)
    torch.testing.assert_close(lambda_returns(*rest, gamma=0.9, td_lambda=1.0), n_step_returns(*rest, gamma=0.9, n_step=6))
    torch.testing.assert_close(lambda_returns(*rest, gamma=0.9, td_lambda=0.0), n_step_returns(*rest, gamma=0.9, n_step=1))


TAKEN, TRACE = torch.tensor([7.0, 8.0, 9.0, 11.0]), torch.tensor([0.3, 0.4, 0.5, 0.6])


def test_off_policy_returns_without_a_trace_are_one_step():
    found = trace_returns(REWARD, NEXT, TAKEN, torch.zeros(4), CUT, CUT, ALL, gamma=0.5)
    assert found.tolist() == [1 + 0.5 * 10, 2, 3 + 0.5 * 30, 4 + 0.5 * 40]


@pytest.mark.parametrize("ended", ["running", "truncated", "terminated"])
def test_off_policy_returns_by_hand(ended):
    """The correction of a step is that step's own: its trace times what its return has over its own action value."""
    terminated, done = CUT if ended == "terminated" else NONE, NONE if ended == "running" else CUT
    fourth = 4 + 0.5 * 40
    third = 3 + 0.5 * (30 + 0.6 * (fourth - 11))
    second = {"running": 2 + 0.5 * (20 + 0.5 * (third - 9)), "truncated": 2 + 0.5 * 20, "terminated": 2.0}[ended]
    first = 1 + 0.5 * (10 + 0.4 * (second - 8))
    found = trace_returns(REWARD, NEXT, TAKEN, TRACE, terminated, done, ALL, gamma=0.5)
    torch.testing.assert_close(found, torch.tensor([first, second, third, fourth]))


@pytest.mark.parametrize("kind", ["one-step", "retrace", "tree-backup", "q-lambda"])
def test_exact_action_values_come_back_whatever_was_played(kind):
    """Four steps that pay the action played (0 or 1), lambda .8; the greedy policy plays 1, the behaviour 0 1 0 1 with probability .5.

    Q*(s_t, a) = a + .9 V_{t+1}; V from the last step backwards: 1, 1.9, 2.71, 3.439.
    """
    played = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    next_value = torch.tensor([2.71, 1.9, 1.0, 0.0], dtype=torch.float64)
    taken = played + 0.9 * next_value
    greedy = played  # the probability with which the greedy policy plays what was played
    trace = {
        "one-step": 0 * greedy,
        "retrace": 0.8 * (greedy / 0.5).clamp(max=1),
        "tree-backup": 0.8 * greedy,
        "q-lambda": 0.8 + 0 * greedy,
    }
    terminated = flags(0, 0, 0, 1)
    found = trace_returns(played, next_value, taken, trace[kind], terminated, terminated, ALL, gamma=0.9)
    torch.testing.assert_close(found, torch.tensor([2.439, 2.71, 0.9, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("padding", [100.0, NAN])
@pytest.mark.parametrize("ended", ["running", "truncated", "terminated"])
def test_what_stands_in_padded_rows_changes_no_off_policy_return_of_a_real_row(padding, ended):
    valid, done = flags(1, 1, 0, 0), NONE if ended == "running" else CUT
    terminated = CUT if ended == "terminated" else NONE
    alone = trace_returns(REWARD[:2], NEXT[:2], TAKEN[:2], TRACE[:2], terminated[:2], done[:2], valid[:2], gamma=0.9)
    padded = [torch.cat([value[:2], torch.full((2,), padding)]) for value in (REWARD, NEXT, TAKEN, TRACE)]
    assert torch.equal(trace_returns(*padded, terminated, done, valid, gamma=0.9)[:2], alone)


def test_no_off_policy_return_reads_the_value_after_termination():
    clean = trace_returns(REWARD, NEXT, TAKEN, TRACE, CUT, CUT, ALL, gamma=0.9)
    next_value = NEXT.clone()
    next_value[1] = NAN
    assert torch.equal(trace_returns(REWARD, next_value, TAKEN, TRACE, CUT, CUT, ALL, gamma=0.9), clean)


@given(
    rows=st.lists(
        st.tuples(*[st.floats(-5, 5, width=32)] * 3, st.floats(0, 1), st.sampled_from(["on", "on", "cut", "end"]), st.booleans()),
        min_size=1,
        max_size=8,
    ),
    gamma=st.sampled_from([0.0, 0.9, 1.0]),
)
@examples
def test_off_policy_returns_are_values_plus_discounted_traced_errors(rows, gamma):
    """G_t = Q_t + sum_k gamma^(k-t) c_{t+1}..c_k delta_k,  delta_k = r_k + gamma V_{k+1} - Q_k."""
    reward, next_value, taken, trace, ends, valid = zip(*rows, strict=True)
    terminated, done = [end == "end" for end in ends], [end != "on" for end in ends]
    expected = []
    for t in range(len(rows)):
        total, weight = taken[t], 1.0
        for k in range(t, t + steps_from(t, done, valid)):
            weight *= trace[k] * gamma if k > t else 1.0
            total += weight * (reward[k] + gamma * (0 if terminated[k] else next_value[k]) - taken[k])
        expected.append(total)
    tensors = [torch.tensor(values, dtype=torch.float64) for values in (reward, next_value, taken, trace)]
    found = trace_returns(*tensors, *(torch.tensor(values) for values in (terminated, done, valid)), gamma=gamma).tolist()
    assert all(math.isclose(a, b, abs_tol=1e-9) for a, b in zip(found, expected, strict=True))
