"""Images from the environment to the gradient: encoders, a replay that stores bytes once, and refusals that name the way out."""

import inspect
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gymnasium.spaces import Box, Discrete
from hypothesis import given, settings
from hypothesis import strategies as st
from pettingzoo import ParallelEnv
from teamcredit.envs.base import TeamSpec
from teamcredit.envs.randomness import copy_seeds
from teamcredit.envs.registry import make
from teamcredit.marl.agents import UtilityNetwork, utility_network
from teamcredit.marl.config import Config, NetworkConfig, ReplayConfig
from teamcredit.marl.encoders import ImageEncoder
from teamcredit.marl.errors import ConfigError
from teamcredit.marl.memory import example_rollout
from teamcredit.marl.policies import Team
from teamcredit.marl.presets import PRESETS, image_preset, own_preset
from teamcredit.marl.replay import Layout, Replay, refuse_oversize, side_by_side
from teamcredit.marl.rollout import begin, collect
from teamcredit.marl.run import configure, resume, train
from teamcredit.marl.trainer import Trainer

torch.set_num_threads(1)
AGENTS, SHAPE, ACTIONS = 2, (9, 6, 3), 3
every_network = pytest.mark.parametrize("kind", ["mlp", "gru"])
shared_or_own = pytest.mark.parametrize("share", [True, False], ids=["shared", "own"])


class Screen(ParallelEnv):
    """Two agents see random colour images; going right pays; eight frames."""

    metadata: ClassVar = {"name": "screen", "is_parallelizable": True}
    render_mode = None

    def __init__(self):
        self.possible_agents = ["camera_0", "camera_1"]
        self.box, self.choice = Box(0, 255, SHAPE, np.uint8), Discrete(ACTIONS)

    def observation_space(self, agent):
        return self.box

    def action_space(self, agent):
        return self.choice

    def see(self):
        numbers = np.random.default_rng([self.seed, self.t])
        return {agent: numbers.integers(0, 256, SHAPE).astype(np.uint8) for agent in self.possible_agents}

    def reset(self, seed=None, options=None):
        self.seed, self.t, self.agents = seed or 0, 0, list(self.possible_agents)
        return self.see(), {agent: {} for agent in self.agents}

    def step(self, actions):
        self.t += 1
        agents, over, each = self.agents, self.t == 8, dict.fromkeys
        self.agents = [] if over else agents
        pay = float(sum(action == 2 for action in actions.values()))
        return self.see(), each(agents, pay), each(agents, False), each(agents, over), {agent: {} for agent in agents}


def network(kind: str = "mlp", *, share: bool = True) -> UtilityNetwork:
    torch.manual_seed(0)
    config = NetworkConfig(kind=kind, hidden=8, share=share)
    return UtilityNetwork(config, num_agents=AGENTS, obs_dim=int(np.prod(SHAPE)), num_actions=ACTIONS, obs_shape=SHAPE)


@every_network
@shared_or_own
def test_agent_is_utilities_depend_on_agent_is_image_alone(kind, share):
    net = network(kind, share=share)
    obs = torch.rand(4, 5, AGENTS, int(np.prod(SHAPE)), requires_grad=True)
    q, _ = net.unroll(obs, torch.zeros(4, 5, dtype=torch.bool))
    for agent in range(AGENTS):
        (gradient,) = torch.autograd.grad(q[:, :, agent].square().sum(), obs, retain_graph=True)
        assert (gradient.abs().sum((0, 1, 3)) > 0).tolist() == [other == agent for other in range(AGENTS)]


def test_own_filters_are_one_convolution_per_agent():
    torch.manual_seed(1)
    encoder = ImageEncoder(AGENTS, SHAPE, share=False)
    obs = torch.rand(5, AGENTS, int(np.prod(SHAPE)))
    for agent in range(AGENTS):
        x = obs[:, agent].unflatten(-1, SHAPE).permute(0, 3, 1, 2)
        for layer in encoder.layers:
            weight, bias = (parameter.chunk(AGENTS)[agent] for parameter in (layer.weight, layer.bias))
            x = F.relu(F.conv2d(x, weight, bias, stride=2, padding=1))
        torch.testing.assert_close(encoder(obs)[:, agent], x.flatten(1))


def test_shared_filters_treat_all_agents_images_alike():
    encoder = ImageEncoder(AGENTS, SHAPE, share=True)
    image = torch.rand(3, 1, int(np.prod(SHAPE)))
    features = encoder(image.expand(-1, AGENTS, -1))
    torch.testing.assert_close(features[:, 0], features[:, 1])


@given(height=st.integers(1, 20), width=st.integers(1, 20), channels=st.sampled_from([1, 3, 4]), share=st.booleans())
@settings(deadline=None, derandomize=True, max_examples=25)
def test_an_image_of_any_size_has_features_down_to_a_single_pixel(height, width, channels, share):
    encoder = ImageEncoder(AGENTS, (height, width, channels), share=share)
    features = encoder(torch.rand(2, AGENTS, height * width * channels))
    assert features.shape == (2, AGENTS, 32 * -(-height // 8) * -(-width // 8))


def test_bytes_are_scaled_at_the_network():
    net = network()
    raw = torch.randint(256, (4, AGENTS, int(np.prod(SHAPE))), dtype=torch.uint8)
    memory = net.initial_memory(4)
    assert torch.equal(net(raw, memory)[0], net(raw.float() / 255, memory)[0])


def spec_of(shape: tuple[int, ...] | None, dtype: torch.dtype = torch.uint8, **changes: Any) -> TeamSpec:
    width = 12 if shape is None else int(np.prod(shape))
    agents = tuple(f"agent_{i}" for i in range(changes.pop("num_agents", AGENTS)))
    given = {"name": "mine:make", "state_dim": len(agents) * width, "state_is_obs": True} | changes
    return TeamSpec(agents=agents, num_actions=ACTIONS, obs_dim=width, obs_dtype=dtype, obs_shape=shape, **given)


@pytest.mark.parametrize(
    ("encoder", "spec", "convolutions"),
    [
        ("auto", spec_of((5, 5, 1)), True),
        ("auto", spec_of((5, 5, 1), torch.float32), False),
        ("auto", spec_of(None), False),
        ("flat", spec_of((5, 5, 1)), False),
        ("cnn", spec_of((5, 5, 1), torch.float32), True),
    ],
)
def test_the_encoder_is_chosen_by_the_task_unless_it_is_named(encoder, spec, convolutions):
    net = utility_network(NetworkConfig(encoder=encoder, hidden=8), spec)
    assert (net.encoder is not None) == convolutions
    obs = torch.zeros(3, AGENTS, spec.obs_dim, dtype=spec.obs_dtype)
    assert net(obs, net.initial_memory(3))[0].shape == (3, AGENTS, ACTIONS)


def test_an_encoder_for_images_on_a_task_without_images_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match=r"network.encoder cnn needs images: the agents of spread observe \d+ numbers each"):
        train("native/spread", options={"network.encoder": "cnn", "steps": 100}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_state_put_together_from_bytes_equals_the_collected_one_for_every_byte():
    obs = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 2, 128)
    expected = obs.numpy().reshape(1, 1, 256) / np.float32(255)
    np.testing.assert_array_equal(side_by_side(obs).numpy(), expected)


@pytest.mark.parametrize("task", [Screen, "mpe/simple_spread"])
def test_a_state_that_is_the_observations_is_not_stored_and_comes_back_number_for_number(task):
    if isinstance(task, str):
        pytest.importorskip("mpe2")
    env = make(task)
    assert env.spec.state_is_obs
    config = ReplayConfig(rollout_steps=12, num_envs=2, minibatch_size=8, window=4, burn_in=2)
    team = Team(utility=utility_network(NetworkConfig(hidden=8), env.spec))
    rollout, _, _ = collect(env, begin(env, team, copy_seeds(0, 2)), team, epsilon=1.0, steps=12)
    replay = Replay(config, example_rollout(env.spec), state_is_obs=True)
    assert not {"state", "next_state"} & {
        item.name for item in (item for block in (replay.layout.bytes, *replay.layout.blocks) for item in block.fields)
    }
    replay.add(rollout)
    for name in ("obs", "state", "next_obs", "next_state", "reward"):
        back, collected = getattr(replay.newest(), name), getattr(rollout, name)
        assert back.dtype == collected.dtype
        assert torch.equal(back, collected), name
    for minibatch, _ in replay.split(torch.Generator().manual_seed(0)):
        steps = minibatch.steps
        assert torch.equal(steps.state, side_by_side(steps.obs))
        assert torch.equal(steps.next_state, side_by_side(steps.next_obs))


@pytest.mark.parametrize("task", [Screen, "native/spread"])
def test_the_layout_known_from_the_task_alone_is_that_of_what_is_collected(task):
    env = make(task)
    team = Team(utility=utility_network(NetworkConfig(hidden=8), env.spec))
    rollout, _, _ = collect(env, begin(env, team, copy_seeds(0, 2)), team, epsilon=1.0, steps=2)
    expected, found = Layout(rollout), Layout(example_rollout(env.spec))
    assert (found.blocks, found.bytes) == (expected.blocks, expected.bytes)


FULL_PISTONBALL = spec_of((457, 120, 3), name="butterfly/pistonball-v6", num_agents=20, state_dim=560 * 880 * 3, state_is_obs=False)


@pytest.mark.parametrize("sampling", ["uniform", "split"])
def test_whole_screens_are_refused_with_the_memory_they_would_take_and_the_preset(sampling, monkeypatch):
    monkeypatch.setattr(torch, "zeros", lambda *args, **kwargs: pytest.fail("allocated"))
    with pytest.raises(ConfigError, match=r"100,000 joint transitions \(replay.capacity\) of 18.4 MB would take 1.8 TB") as caught:
        refuse_oversize(ReplayConfig(sampling=sampling), FULL_PISTONBALL, memory=24 * 10**9)
    assert "more than half of this machine's 24.0 GB: use --preset pistonball, or a replay.capacity of at most 651" in str(caught.value)
    assert caught.value.remedy == "use --preset pistonball"
    refuse_oversize(ReplayConfig(capacity=600), FULL_PISTONBALL, memory=24 * 10**9)


def test_images_of_ones_own_are_refused_with_the_options_that_make_them_smaller():
    with pytest.raises(ConfigError, match=r"use --env.resize 42x42 \(and --env.color-reduction full .*\), or --preset images, or a replay"):
        refuse_oversize(ReplayConfig(), spec_of((210, 160, 3)), memory=24 * 10**9)


def test_numbers_that_are_no_images_are_judged_by_what_the_ring_holds():
    wide = spec_of(None, torch.float32, state_dim=10**6, state_is_obs=False)
    refuse_oversize(ReplayConfig(), wide, memory=24 * 10**9)
    with pytest.raises(ConfigError, match=r"the replay would take 800.0 GB .* lower replay.capacity to at most"):
        refuse_oversize(ReplayConfig(sampling="uniform"), wide, memory=24 * 10**9)


def test_the_refusal_comes_before_networks_and_copies_are_made(monkeypatch):
    env = make(Screen)
    monkeypatch.setattr("teamcredit.marl.replay.machine_memory", lambda: 10**6)
    monkeypatch.setattr(type(env), "reset", lambda *args: pytest.fail("reset"))
    monkeypatch.setattr("teamcredit.marl.trainer.make_learner", lambda *args: pytest.fail("made"))
    with pytest.raises(ConfigError, match=r"use --env.resize 42x42"):
        Trainer(Config("mine:make"), env)


@pytest.mark.parametrize(
    ("task", "expected", "smaller"),
    [
        ("butterfly/pistonball-v6", "pistonball", "pistonball"),
        ("butterfly/cooperative_pong-v6", "pong", "pong"),
        ("butterfly/knights_archers_zombies-v11", "kaz", None),
        ("sisl/pursuit-v5", "pursuit", None),
        ("rware/small-4ag", "rware", None),
        ("mine:make", "replay", None),
    ],
)
def test_a_task_of_any_shape_has_its_own_preset(task, expected, smaller):
    assert (own_preset(task), image_preset(task)) == (expected, smaller)


@pytest.mark.parametrize(("name", "spec"), [("pistonball", spec_of((42, 42, 1), num_agents=20)), ("pong", spec_of((42, 42, 1)))])
def test_an_image_preset_fits_into_a_gigabyte(name, spec):
    refuse_oversize(configure(preset=name, options={"task": "mine:make"}, environ={}).config.replay, spec, memory=10**9)
    assert PRESETS[name][1]["env"]["resize"] == "42x42"


@every_network
@shared_or_own
@pytest.mark.parametrize("algo", ["iql", "qmix"])
def test_learning_from_images_moves_the_encoder(kind, share, algo):
    replay = ReplayConfig(rollout_steps=8, num_envs=2, minibatch_size=16, window=4)
    config = Config("mine:make", algo=algo, network=NetworkConfig(kind=kind, hidden=8, share=share), replay=replay)
    trainer = Trainer(config, make(Screen))
    encoder: Any = trainer.networks["utility"].encoder
    before = [parameter.detach().clone() for parameter in encoder.parameters()]
    trainer.round()
    assert all(not torch.equal(old, new) for old, new in zip(before, encoder.parameters(), strict=True))
    assert trainer.replay.raw.dtype == torch.uint8
    assert trainer.replay.layout.byte_width == 2 * AGENTS * int(np.prod(SHAPE))


def test_a_run_on_images_that_was_resumed_ends_with_the_weights_of_one_that_went_through(tmp_path, monkeypatch):
    header = (
        "from typing import ClassVar\nimport numpy as np\nfrom gymnasium.spaces import Box, Discrete\nfrom pettingzoo import ParallelEnv\n"
    )
    (tmp_path / "screens_to_resume.py").write_text(f"{header}SHAPE, ACTIONS = {SHAPE}, {ACTIONS}\n{inspect.getsource(Screen)}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    options = {
        "replay.rollout_steps": 8, "replay.minibatch_size": 8, "replay.sampling": "uniform", "replay.capacity": 64, "network.hidden": 8,
        "evaluation.final_episodes": 1, "evaluation.every": 1000, "env.resize": "4x4", "exploration.end": 1.0,
    }  # fmt: skip
    whole = train("screens_to_resume:Screen", steps=64, options=options, out=tmp_path / "whole")
    half = train("screens_to_resume:Screen", steps=32, options=options, out=tmp_path / "half")
    before, expected = half.team.utility.state_dict(), whole.team.utility.state_dict()
    found = resume(half, steps=64).team.utility.state_dict()
    assert any(name.startswith("encoder") for name in found)
    for name, weights in expected.items():
        assert torch.equal(found[name], weights), name
        assert not torch.equal(before[name], weights), name
