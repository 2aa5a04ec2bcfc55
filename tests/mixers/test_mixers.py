"""Mixers: what value decomposition promises, by brute force."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from teamcredit.mixers import MIXERS, make_mixer
from teamcredit.mixers.base import mix
from teamcredit.mixers.qmix import QMix, QMixAt

sizes, seeds = st.integers(1, 4), st.integers(0, 2**31)
examples = settings(deadline=None, derandomize=True, max_examples=50)


def random_mixer(name: str, agents: int, state_dim: int, seed: int):
    """A mixer whose weights are large enough to be far from linear."""
    torch.manual_seed(seed)
    mixer = make_mixer(name, num_agents=agents, state_dim=state_dim, embed_dim=8, hyper_dim=8)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.normal_()
    return mixer


@given(name=st.sampled_from(sorted(MIXERS)), agents=sizes, state_dim=sizes, batch=sizes, seed=seeds)
@examples
def test_a_monotone_mixer_never_lowers_q_tot_when_a_utility_rises(name, agents, state_dim, batch, seed):
    mixer = random_mixer(name, agents, state_dim, seed)
    assert mixer.monotone
    q = 3 * torch.randn(batch, agents, requires_grad=True)
    (slope,) = torch.autograd.grad(mixer(q, torch.randn(batch, state_dim)).sum(), q)
    assert (slope >= 0).all()


def test_qmix_slopes_differ_between_states():
    """A mixer that forgot the state would still be monotone."""
    mixer = random_mixer("qmix", 3, 4, 0)
    q = torch.zeros(5, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(mixer(q, torch.randn(5, 4)).sum(), q)
    assert (slope.std(0) > 1e-3).all()


def test_qmix_is_the_papers_equation():
    torch.manual_seed(0)
    mixer, q, state = QMix(2, 3, 4, 5), torch.randn(2), torch.randn(3)
    weights = mixer.W1(state).abs().reshape(2, 4)
    hidden = torch.nn.functional.elu(q[0] * weights[0] + q[1] * weights[1] + mixer.b1(state))
    torch.testing.assert_close(mixer(q, state), hidden @ mixer.w2(state).abs() + mixer.v(state)[0])


@given(agents=sizes, batch=sizes, seed=seeds)
@examples
def test_vdn_is_the_sum_of_the_utilities(agents, batch, seed):
    mixer = random_mixer("vdn", agents, 2, seed)
    q = torch.randn(batch, agents)
    assert not list(mixer.parameters())
    torch.testing.assert_close(mixer(q, torch.randn(batch, 2)), torch.stack([row.sum() for row in q]))


@given(name=st.sampled_from(["vdn", "qmix"]), agents=st.integers(2, 4), actions=st.integers(2, 4), seed=seeds)
@examples
def test_the_agents_own_greedy_actions_maximise_q_tot_over_all_joint_actions(name, agents, actions, seed):
    mixer = random_mixer(name, agents, 3, seed)
    utilities, state = torch.randn(agents, actions), torch.randn(3)
    joint = torch.tensor(list(itertools.product(range(actions), repeat=agents)))
    q = utilities[torch.arange(agents), joint]  # (joint action, agent)
    values = mixer(q, state.expand(len(joint), -1))
    own = mixer(utilities.amax(-1), state)
    torch.testing.assert_close(own, values.max())
    rank = (joint * actions ** torch.arange(agents - 1, -1, -1)).sum(-1)
    chosen = (utilities.argmax(-1) * actions ** torch.arange(agents - 1, -1, -1)).sum()
    torch.testing.assert_close(values[rank == chosen].squeeze(), values.max())


@pytest.mark.parametrize("name", sorted(MIXERS))
@pytest.mark.parametrize("absent", [1e6, float("nan"), float("-inf")])
def test_a_dead_agents_utility_changes_no_value_and_gets_no_gradient(name, absent):
    mixer = random_mixer(name, 3, 4, 1)
    state, alive = torch.randn(5, 4), torch.tensor([True, False, True])
    q = torch.randn(5, 3)
    expected = mix(mixer, q, state, alive)
    q[:, 1] = absent
    q.requires_grad_()
    found = mix(mixer, q, state, alive)
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found.sum(), q)
    assert (gradient[:, 1] == 0).all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", sorted(MIXERS))
def test_only_independent_learners_keep_the_agent_axis(name):
    mixer = random_mixer(name, 3, 4, 2)
    q, state, alive = torch.randn(2, 5, 3), torch.randn(2, 5, 4), torch.ones(2, 5, 3, dtype=torch.bool)
    assert mixer.per_agent == (name == "none")
    assert mix(mixer, q, state, alive).shape == ((2, 5, 3) if mixer.per_agent else (2, 5, 1))


def test_independent_learners_values_are_their_utilities():
    q = torch.randn(4, 3)
    assert torch.equal(mix(random_mixer("none", 3, 2, 0), q, torch.randn(4, 2), torch.ones(4, 3, dtype=torch.bool)), q)


@given(agents=sizes, seed=seeds)
@examples
def test_a_mixer_that_calls_itself_linear_adds_up_what_each_utility_alone_adds(agents, seed):
    for name in MIXERS:
        mixer = random_mixer(name, agents, 2, seed)
        if not mixer.linear:
            continue
        q, state = torch.randn(agents), torch.randn(2)
        nothing = mixer(torch.zeros(agents), state).sum()
        alone = [mixer(q * (torch.arange(agents) == i), state).sum() - nothing for i in range(agents)]
        torch.testing.assert_close(mixer(q, state).sum(), nothing + sum(alone))


def test_an_unknown_mixer_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match="none, vdn, qmix"):
        make_mixer("qmax", num_agents=2, state_dim=2, embed_dim=2, hyper_dim=2)


@given(name=st.sampled_from(["vdn", "qmix"]), agents=sizes, batch=sizes, samples=sizes, seed=seeds)
@examples
def test_a_mixer_at_its_states_gives_what_it_gives_for_every_sample_by_itself(name, agents, batch, samples, seed):
    mixer = random_mixer(name, agents, 3, seed)
    q, state = torch.randn(2, batch, samples, agents), torch.randn(2, batch, 3)
    one_by_one = torch.stack([mixer(q[..., sample, :], state) for sample in range(samples)], -1)
    torch.testing.assert_close(mixer.at(state)(q), one_by_one)


def test_qmix_at_its_states_runs_its_hypernetworks_once():
    mixer, ran = random_mixer("qmix", 3, 4, 0), []
    for network in (mixer.W1, mixer.w2, mixer.b1, mixer.v):
        network.register_forward_hook(lambda *_: ran.append(1))
    at = mixer.at(torch.randn(5, 4))
    at(torch.randn(5, 6, 3))
    at.coalition_values(torch.randn(5, 3), torch.randn(5, 2, 3), (0, 1, 2))
    assert len(ran) == 4


@given(agents=sizes, draws=sizes, seed=seeds)
@examples
def test_the_doublings_of_qmix_are_the_mixer_at_every_coalition(agents, draws, seed):
    mixer = random_mixer("qmix", agents, 3, seed).double()
    q, q_ref, state = torch.randn(4, agents).double(), torch.randn(4, draws, agents).double(), torch.randn(4, 3).double()
    players = [agent for agent in range(agents) if agent != 1]  # the second agent never joins
    member = torch.zeros(2 ** len(players), agents, dtype=torch.bool)
    for row, joined in enumerate(itertools.product((False, True), repeat=len(players))):
        member[row, players] = torch.tensor(joined[::-1], dtype=torch.bool)  # the first player is the lowest bit
    mixed = torch.where(member, q[:, None, None], q_ref.unsqueeze(2))
    truth = mixer.at(state)(mixed.flatten(1, 2)).unflatten(1, (draws, -1)).mean(1)
    torch.testing.assert_close(mixer.at(state).coalition_values(q, q_ref, players), truth)


def test_independent_learners_have_no_team_value_to_mix():
    with pytest.raises(ValueError, match="independent learners mix nothing"):
        random_mixer("none", 3, 2, 0).at(torch.zeros(4, 2))


def test_what_multiplies_utilities_at_a_state_is_not_negative():
    at = random_mixer("qmix", 3, 2, 0).at(torch.zeros(4, 2))
    assert (at.W1.shape, at.b1.shape, at.w2.shape, at.v.shape) == ((4, 3, 8), (4, 8), (4, 8), (4,))
    assert isinstance(at, QMixAt)
    assert (at.W1 >= 0).all()
    assert (at.w2 >= 0).all()
