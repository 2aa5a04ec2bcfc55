"""From layers of options to one configuration: who wins, what is understood, and the sentence for what is not."""

import math
from pathlib import Path
from typing import Any

import pytest
from teamcredit.marl.config import Config, LearnerConfig, NetworkConfig, ReplayConfig
from teamcredit.marl.errors import ConfigError
from teamcredit.marl.folder import config_text
from teamcredit.marl.presets import PRESETS, preset
from teamcredit.marl.resolve import (
    convert,
    flatten_config,
    option_defaults,
    option_help,
    option_types,
    read_environment,
    read_file,
    resolve,
)
from teamcredit.marl.run import configure

TASK = {"task": "native/two-step"}


def resolved(**options: Any) -> Config:
    return resolve([("flag", TASK | options)]).config


@pytest.mark.parametrize("highest", ["defaults", "preset", "file", "environment", "flag"])
def test_later_layers_win_and_each_value_knows_its_source(highest, tmp_path, monkeypatch):
    """defaults < preset < file < environment < flags, for one key set in every layer up to `highest`."""
    monkeypatch.setitem(PRESETS, "mine", ("for this test", {"learner": {"lr": 1e-1}} if highest != "defaults" else {}))
    order = ["defaults", "preset", "file", "environment", "flag"]
    reached = order[: order.index(highest) + 1]
    file = tmp_path / "c.yaml"
    file.write_text("learner:\n  lr: 1e-2\n" if "file" in reached else "algo: vdn\n")
    environ = {"MARL_LEARNER_LR": "1e-3"} if "environment" in reached else {}
    options = TASK | ({"learner.lr": "1e-4"} if "flag" in reached else {})
    found = configure(preset="mine", file=file, options=options, environ=environ)
    assert found.config.learner.lr == {"defaults": 5e-4, "preset": 1e-1, "file": 1e-2, "environment": 1e-3, "flag": 1e-4}[highest]
    sources = {"preset": "preset mine", "file": "c.yaml", "environment": "environment", "flag": "flag"}
    assert found.sources.get("learner.lr") == sources.get(highest)
    assert found.sources["task"] == "flag"


def test_layers_set_single_keys_and_leave_the_rest_of_their_group():
    found = resolve([("a", TASK | {"replay": {"num_envs": 4, "minibatch_size": 64}}), ("b", {"replay.num_envs": 8})]).config
    assert (found.replay.num_envs, found.replay.minibatch_size) == (8, 64)


@pytest.mark.parametrize(
    "text, number",
    [("400k", 400_000), ("3M", 3_000_000), ("1e3", 1000), ("1_000", 1000), ("1.5k", 1500), (" 7 ", 7), (12, 12), (3e3, 3000), ("0", 0),
     (str(2**53 + 1), 2**53 + 1)],
)  # fmt: skip
def test_whole_numbers_may_be_texts(text, number):
    found = convert(text, int, "steps")
    assert (found, type(found)) == (number, int)


@pytest.mark.parametrize("text, number", [("1e-3", 1e-3), ("0.5", 0.5), (1, 1.0), ("2k", 2000.0), ("-.5", -0.5)])
def test_real_numbers_may_be_texts(text, number):
    found = convert(text, float, "lr")
    assert (found, type(found)) == (number, float)


@pytest.mark.parametrize("bad", ["many", "1e", "", "_", "1.2.3", "k", True, None, [1], math.inf, math.nan, "1e999"])
@pytest.mark.parametrize("wanted", [int, float])
def test_what_is_no_number_is_refused(bad, wanted):
    with pytest.raises(ConfigError, match=r"here: .* is not a number"):
        convert(bad, wanted, "here")


def test_a_fraction_is_no_count():
    with pytest.raises(ConfigError, match=r"'1\.5' is not a whole number"):
        convert("1.5", int, "steps")


@pytest.mark.parametrize("text, value", [("true", True), ("On", True), ("1", True), (False, False), ("no", False), ("0", False)])
def test_booleans_may_be_texts(text, value):
    assert convert(text, bool, "share") is value


@pytest.mark.parametrize("raw, value", [("a=noop, b=random", ("a=noop", "b=random")), (["a=noop"], ("a=noop",)), ("", ()), (None, ())])
def test_lists_may_be_texts_with_commas(raw, value):
    assert convert(raw, tuple[str, ...], "members") == value


@pytest.mark.parametrize(
    "key, raw, sentence",
    [
        ("network.kind", "lstm", "network.kind: 'lstm' is not one of mlp, gru"),
        ("learner.target", "hrad", "Did you mean hard?"),
        ("network.share", "perhaps", "'perhaps' is not true or false"),
        ("replay.minibatch_size", "ful", "'ful' is not a whole number or full"),
        ("time_limit", "soon", "'soon' is not a whole number"),
        ("task", 5, "5 is not text"),
        ("members", 5, "5 is not a list"),
        ("learner.lrr", 1, 'unknown key "learner.lrr". Did you mean "learner.lr"?'),
        ("mixr.embed_dim", 1, 'Did you mean "mixer.embed_dim"?'),
        ("embed_dimm", 1, 'Did you mean "mixer.embed_dim"?'),
        ("every", 1, '"every" could be any of evaluation.every, checkpoint.every: write it in full'),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_layer_and_the_nearest_right_one(key, raw, sentence):
    with pytest.raises(ConfigError) as caught:
        resolved(**{key: raw})
    assert str(caught.value).startswith("flag: ")
    assert sentence in str(caught.value)


def test_keys_may_be_short_where_they_are_unique_and_have_dashes():
    assert resolved(**{"embed-dim": "16", "num_envs": 4}).mixer.embed_dim == 16


def test_task_options_pass_unchanged():
    assert resolved(env={"relative_obs": True}, **{"env.sight": 2}).env == {"relative_obs": True, "sight": 2}


def test_a_value_may_be_unset_with_none():
    assert resolved(time_limit="none", team_reward="none").team_reward is None
    assert resolved(**{"learner.target": None}).learner.target == "none"


def test_without_a_task_there_is_no_configuration():
    with pytest.raises(ConfigError, match="no task was named"):
        resolve([])


def test_environment_variables_name_keys_and_strangers_are_left_alone():
    found = read_environment({"MARL_LEARNER_LR": "1", "MARL_SEED": "3", "MARL_RUNS": "x", "MARL_HOME_PAGE": "y", "HOME": "z"})
    assert found == {"learner.lr": "1", "seed": "3"}
    with pytest.raises(ConfigError, match=r"MARL_LEARNER_LRR is no option\. Did you mean MARL_LEARNER_LR\?"):
        read_environment({"MARL_LEARNER_LRR": "1"})


@pytest.mark.parametrize("text, sentence", [("- a\n", "must hold keys and values, not a list"), ("a: [\n", "is not readable YAML")])
def test_a_bad_configuration_file_is_refused(text, sentence, tmp_path):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        read_file(tmp_path / "c.yaml")


def test_a_missing_configuration_file_is_refused_and_an_empty_one_says_nothing(tmp_path):
    with pytest.raises(ConfigError, match="no configuration file"):
        read_file(tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text("")
    assert read_file(tmp_path / "c.yaml") == {}


def test_a_written_configuration_reads_back_the_same(tmp_path: Path):
    config = resolved(members="agent_0=random", seed=7, **{"env.sight": 2, "replay.minibatch_size": "full", "learner.lr": "3e-4"})
    (tmp_path / "config.yaml").write_text(config_text(config))
    assert resolve([("config.yaml", read_file(tmp_path / "config.yaml"))]).config == config


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_is_a_configuration(name):
    assert resolve([("flag", TASK), (f"preset {name}", preset(name))]).config.task


def test_an_unknown_preset_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"Did you mean two-step-paper\?"):
        preset("two-step")


def test_every_option_has_a_type_a_default_and_a_help_text():
    assert option_types().keys() == option_defaults().keys() == option_help().keys() - {"env"}
    assert all(option_help().values())
    assert flatten_config(Config(task="")) == option_defaults()


INVALID: list[tuple[dict[str, Any], str]] = [
    ({"steps": -1}, "steps -1 must be at least 0"),
    ({"network.hidden": 0}, "network.hidden 0 must be at least 1"),
    ({"network.layers": 0}, "network.layers 0 must be at least 1"),
    ({"mixer.embed_dim": 0}, "mixer.embed_dim 0 must be at least 1"),
    ({"mixer.hyper_dim": 0}, "mixer.hyper_dim 0 must be at least 1"),
    ({"learner.gamma": 1.5}, r"learner.gamma 1.5 must lie in \[0, 1\]"),
    ({"learner.td_lambda": -0.1}, r"learner.td_lambda -0.1 must lie in \[0, 1\]"),
    ({"learner.n_step": 0}, "learner.n_step 0 must be at least 1"),
    ({"learner.target_every": 0}, "learner.target_every 0 must be at least 1"),
    ({"learner.target_tau": 2}, "learner.target_tau 2.0 must lie in"),
    ({"learner.lr": 0}, "must be above 0"),
    ({"learner.grad_clip": 0}, "must be above 0"),
    ({"learner.n_step": 3, "learner.td_lambda": 0.5}, "exclude each other"),
    ({"exploration.start": 1.1}, "exploration.start 1.1 must lie in"),
    ({"exploration.end": -1}, "exploration.end -1.0 must lie in"),
    ({"exploration.fraction": 2}, "exploration.fraction 2.0 must lie in"),
    ({"replay.rollout_steps": 0}, "replay.rollout_steps 0 must be at least 1"),
    ({"replay.num_envs": 0}, "replay.num_envs 0 must be at least 1"),
    ({"replay.epochs": 0}, "replay.epochs 0 must be at least 1"),
    ({"replay.window": 0}, "replay.window 0 must be at least 1"),
    ({"replay.burn_in": -1}, "replay.burn_in -1 must be at least 0"),
    ({"replay.learning_starts": -1}, "replay.learning_starts -1 must be at least 0"),
    ({"replay.replay_ratio": 0}, "replay.replay_ratio 0.0 must be above 0"),
    ({"replay.minibatch_size": 0}, "replay.minibatch_size 0 must be at least 1"),
    ({"replay.minibatch_size": "full", "replay.sampling": "uniform"}, "a uniform draw has no full batch"),
    ({"replay.minibatch_size": 64, "replay.capacity": 32}, "a minibatch is drawn from the replay"),
    ({"replay.minibatch_size": 256}, "exceeds the batch of 128"),
    ({"replay.minibatch_size": 48}, "does not divide the batch of 128: choose a divisor"),
    ({"replay.window": 3}, "replay.window 3 does not divide replay.minibatch_size 32"),
    ({"replay.window": 16, "replay.rollout_steps": 40, "replay.num_envs": 4}, "a split batch is cut into whole windows"),
    ({"replay.capacity": 100}, "a batch of 128 .* exceeds replay.capacity 100"),
    ({"replay.sampling": "uniform", "replay.capacity": 130, "replay.num_envs": 3, "replay.rollout_steps": 4, "replay.minibatch_size": 130},
     "holds 43 steps of each of the 3 copies"),
    ({"replay.sampling": "uniform", "replay.capacity": 128, "replay.num_envs": 16, "replay.rollout_steps": 4, "replay.window": 16},
     "too few for replay.window 16"),
    ({"replay.sampling": "uniform", "learner.td_lambda": 0.5}, "too short for learner.n_step 1 and td_lambda 0.5"),
    ({"replay.sampling": "uniform", "learner.n_step": 3, "replay.window": 2}, "too short for learner.n_step 3"),
    ({"network.kind": "gru", "learner.n_step": 5, "replay.window": 4}, "too short for learner.n_step 5 .* raise replay.window$"),
    ({"network.kind": "gru"}, "network.kind gru needs replay.window above 1"),
    ({"replay.burn_in": 4}, "an mlp has no memory to rebuild"),
    ({"evaluation.every": -1}, "evaluation.every -1 must be at least 0"),
    ({"evaluation.episodes": 0}, "evaluation.episodes 0 must be at least 1"),
    ({"evaluation.final_episodes": 0}, "evaluation.final_episodes 0 must be at least 1"),
    ({"checkpoint.every": -1}, "checkpoint.every -1 must be at least 0"),
    ({"checkpoint.replay": 0}, "checkpoint.replay 0 must be at least 1"),
]  # fmt: skip


@pytest.mark.parametrize("options, sentence", INVALID, ids=lambda value: " ".join(value) if isinstance(value, dict) else "")
def test_an_invalid_combination_is_refused_with_its_sentence(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        resolved(**options)


def test_a_short_last_minibatch_is_accepted_when_asked_for():
    assert ReplayConfig(minibatch_size=48, last_minibatch="keep").last_minibatch == "keep"


def test_parallel_q_learning_can_be_said():
    config = Config("t", learner=LearnerConfig(td_lambda=0.7, target="none"), network=NetworkConfig(layer_norm=True))
    assert config.replay.sampling == "split"


def test_a_task_brings_its_own_preset_until_an_option_has_another_value_than_there():
    def settings(**options):
        return configure(options={"task": "native/foraging-8x8-2p-3f", **options}, environ={}).config

    own = settings()
    assert (own.replay.num_envs, own.learner.td_lambda, own.env) == (128, 0.7, {"relative_obs": True})
    assert settings(sampling="split", td_lambda="0.7") == own
    assert settings(**{"network.hidden": "64"}).replay == own.replay
    recurrent = configure(options={"task": "mpe/simple_spread", "network.kind": "gru"}, environ={}).config
    assert recurrent.replay.window == 8
    plain = settings(td_lambda="0.8")
    assert (plain.replay, plain.env) == (ReplayConfig(), {})
    assert (plain.replay.batch, plain.replay.minibatch_size) == (128, 32)


def test_a_named_preset_stays_under_the_users_options_and_none_gives_the_plain_defaults():
    def settings(preset, **options):
        return configure(preset=preset, options={"task": "native/spread", **options}, environ={}).config

    assert settings("spread", lr="1e-4").replay == settings("spread").replay
    assert settings("none").replay == ReplayConfig()


def test_a_maker_is_remembered_by_module_and_name_and_one_without_is_refused():
    from teamcredit.marl.run import task_name

    assert task_name(make_config_maker) == f"{make_config_maker.__module__}:make_config_maker"
    with pytest.raises(ConfigError, match="cannot be found again"):
        task_name(lambda: None)


def make_config_maker():
    """A maker of environments, by its looks."""
