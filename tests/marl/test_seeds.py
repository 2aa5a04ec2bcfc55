"""Several seeds in one process: each seed gets the numbers it would get alone, and is a run like any other."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from teamcredit.envs.registry import make
from teamcredit.marl import seed_runs
from teamcredit.marl.checkpoint import latest, list_checkpoints, read
from teamcredit.marl.cli import main
from teamcredit.marl.config import Config, LearnerConfig
from teamcredit.marl.engine import owned
from teamcredit.marl.errors import ConfigError, Diverged, Interrupted
from teamcredit.marl.evaluate import evaluate
from teamcredit.marl.folder import read_metrics
from teamcredit.marl.recurrence import gru_layer
from teamcredit.marl.run import configure, load, resume, train
from teamcredit.marl.seed_runs import train_seeds
from teamcredit.marl.seeds import Together, shared_replay
from teamcredit.marl.stacked import Stack, move
from teamcredit.marl.trainer import Trainer

SMALL = {"network.hidden": 16, "steps": 20_000, "compile": "off", "learner.target_every": 3}
MLP = SMALL | {"replay.num_envs": 4, "replay.rollout_steps": 8, "replay.minibatch_size": 16}
UNIFORM = MLP | {"replay.sampling": "uniform", "replay.capacity": 100, "replay.num_envs": 2}
GRU = SMALL | {
    "network.kind": "gru", "replay.num_envs": 2, "replay.rollout_steps": 16, "replay.minibatch_size": 16, "replay.window": 4,
    "learner.optimiser": "radam",
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "mlp, fresh batches, lambda returns": MLP | {"algo": "qmix", "replay.epochs": 2, "learner.td_lambda": 0.8, "learner.target": "none"},
    "mlp, stored steps, rewards divided": UNIFORM | {"algo": "vdn", "learner.standardise_rewards": True},
    "own weights": UNIFORM | {"algo": "iql", "network.share": False, "learner.grad_clip": 0.01},
    "gru, stored windows": GRU | {"algo": "qmix", "replay.sampling": "uniform", "replay.burn_in": 2, "learner.target": "soft"},
    "gru, own weights, decaying rate": GRU | {"algo": "vdn", "network.share": False, "learner.lr_decay": "linear", "steps": 256},
    "a planted member": UNIFORM | {"algo": "vdn", "members": ["agent_1=random"]},
}


@pytest.fixture
def unrecorded(monkeypatch):
    """Recording takes longer than these few rounds."""
    monkeypatch.setattr("teamcredit.marl.seeds.recorded", lambda function: function)


def configs(options: dict[str, Any], count: int, *, task: str = "native/spread", preset: str = "none") -> list[Config]:
    return [configure(preset=preset, options=options | {"task": task, "seed": seed}, environ={}).config for seed in range(count)]


def together(options: dict[str, Any], count: int = 2, **task: Any) -> Together:
    made = configs(options, count, **task)
    return Together(made, make(made[0].task))


def alone(group: Together, rounds: int) -> list[Trainer]:
    """The same seeds one by one, eagerly, after as many rounds."""
    solos = [Trainer(replace(trainer.config, compile="off"), group.env) for trainer in group.trainers]
    for solo in solos:
        for _ in range(rounds):
            solo.round()
    return solos


def assert_same_numbers(group: Together, rounds: int) -> None:
    """Weights, targets and moments to 1e-4; generators, actions stored and everything else that was drawn exactly."""
    for _ in range(rounds):
        group.round()
    for solo, trainer in zip(alone(group, rounds), group.trainers, strict=True):
        assert solo.metrics() == pytest.approx(trainer.metrics(), rel=1e-3)
        expected, found = solo.dump(), trainer.dump()
        assert found.meta["counters"] == expected.meta["counters"]
        for name, tensors in expected.groups.items():
            assert tensors.keys() == found.groups[name].keys()
            torch.testing.assert_close(dict(found.groups[name]), dict(tensors), rtol=0, atol=1e-4)
        actions = [item.replay.newest().action for item in (solo, trainer)]
        assert torch.equal(*actions)
        assert torch.equal(solo.generator.get_state(), trainer.generator.get_state())


@pytest.mark.parametrize("name", list(CASES))
def test_each_seed_gets_the_numbers_it_would_get_alone(name, unrecorded):
    group = together(CASES[name])
    assert_same_numbers(group, 4)
    assert group.lead.counters.iterations >= 4


@pytest.mark.parametrize("name", ["mlp, stored steps, rewards divided", "gru, own weights, decaying rate"])
def test_recorded_operations_give_the_same_numbers(name):
    assert_same_numbers(together(CASES[name]), 4)


def test_seeds_differ_from_one_another(unrecorded):
    group = together(CASES["own weights"])
    group.round()
    first, second = (trainer.replay.newest().action for trainer in group.trainers)
    assert not torch.equal(first, second)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options, preset, rounds",
    [
        ({"algo": "qmix", "replay.num_envs": 16, "replay.minibatch_size": 64}, "spread", 25),
        ({"algo": "vdn", "replay.num_envs": 16, "replay.minibatch_size": 64, "learner.lr": 1e-3}, "spread", 25),
        ({"algo": "vdn", "replay.num_envs": 16, "replay.minibatch_size": 64, "network.layers": 2}, "spread", 25),
        (UNIFORM | {"algo": "qmix"}, "none", 200),
        (UNIFORM | {"algo": "iql"}, "none", 200),
        (GRU | {"algo": "vdn", "replay.sampling": "uniform"}, "none", 100),
        (GRU | {"algo": "qmix", "replay.sampling": "uniform", "network.share": False}, "none", 100),
    ],
)
def test_after_200_updates_parameters_are_within_1e_4_of_the_solo_runs(options, preset, rounds):
    """VDN with the preset's three layers at its full rate is left out: seeds 0 and 1 stay within 4e-7, but seed 2 is stiff.

    There a plain run whose first weights differ by a last bit is 1e-4 away after 200 updates, and the stacked one 2e-3.
    """
    group = together({**options, "compile": "off"}, 3, preset=preset)
    for _ in range(rounds):
        group.round()
    assert group.lead.counters.iterations >= 200
    for solo, trainer in zip(alone(group, rounds), group.trainers, strict=True):
        for mine, theirs in zip(trainer.networks.parameters(), solo.networks.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, more, engine",
    [
        ("mlp, fresh batches, lambda returns", {}, "compiled"),
        ("mlp, fresh batches, lambda returns", {"replay.minibatch_size": 12, "replay.last_minibatch": "keep"}, "compiled"),
        ("gru, stored windows", {}, "compiled"),
        ("a planted member", {}, "learning compiled"),
    ],
)
def test_the_captured_loop_of_all_seeds_gives_the_solo_numbers(name, more, engine):
    pytest.importorskip("torch._inductor")
    notes = []
    made = configs(CASES[name] | {"compile": "on", **more}, 2)
    group = Together(made, make("native/spread"), announce=notes.append)
    assert_same_numbers(group, 4)
    assert group.lead.choice.engine == engine
    assert [note.split()[1] for note in notes if note.startswith("compiled ")] == (["collecting,"] if engine == "compiled" else []) + [
        "learning,"
    ]


@pytest.mark.slow
def test_ten_stacked_and_ten_solo_seeds_end_with_overlapping_returns(tmp_path):
    options = {"replay.num_envs": 16, "replay.minibatch_size": 64, "evaluation.final_episodes": 50}
    named = {"algo": "vdn", "steps": 40_000, "preset": "spread"}
    stacked = train_seeds("native/spread", seeds=range(10), options=options, out=tmp_path / "all", **named)
    solo = [train("native/spread", seed=seed, options=options, out=tmp_path / f"solo-{seed}", **named) for seed in range(10)]
    results = [[json.loads((run.folder / "result.json").read_text()) for run in runs] for runs in (stacked, solo)]
    means = [torch.tensor([result["return"]["mean"] for result in side]) for side in results]
    reach = [1.96 * float(mean.std()) / 10**0.5 for mean in means]
    assert abs(float(means[0].mean() - means[1].mean())) <= sum(reach)


def test_the_recurrent_layer_maps_over_seeds_as_it_would_run_seed_by_seed():
    generator = torch.Generator().manual_seed(0)
    seeds, sets, steps, rows, hidden = 3, 2, 5, 4, 6

    def number(*shape: int) -> torch.Tensor:
        return torch.randn(seeds, *shape, generator=generator)

    keep = (number(sets, steps, rows, 1) > 0).float()
    weights = number(sets, 3 * hidden, 5), number(sets, 3 * hidden, hidden), number(sets, 3 * hidden), number(sets, 3 * hidden)
    inputs = [number(sets, steps, rows, 5), number(sets, rows, hidden), *weights]
    for value in inputs:
        value.requires_grad_()

    def memories(keep: torch.Tensor, x: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        return gru_layer(x, keep, *others, False, True)[0]

    mapped = torch.func.vmap(memories)(keep, *inputs)
    one_by_one = torch.stack([memories(keep[k], *(value[k] for value in inputs)) for k in range(seeds)])
    torch.testing.assert_close(mapped, one_by_one)
    gradients = [torch.autograd.grad(out.square().sum(), inputs) for out in (mapped, one_by_one)]
    torch.testing.assert_close(*gradients)
    x, start, *own = inputs
    shared = torch.func.vmap(memories, in_dims=(None, 0, None, 0, 0, 0, 0))(keep[0], x, start[0], *own)
    torch.testing.assert_close(shared[2], memories(keep[0], x[2], start[0], *(weight[2] for weight in own)))


def test_each_seeds_gradient_is_clipped_by_its_own_norm():
    """Norms 5 and 0.5 under a limit of 1: the first is scaled to (.6, .8), the second stays."""
    zeros = torch.zeros(2, 2)
    stack = Stack(zeros.clone(), zeros.clone(), zeros.clone(), zeros.clone())
    norms = move(LearnerConfig(grad_clip=1.0, target="soft", target_tau=0.5), stack, torch.tensor([[3.0, 4.0], [0.3, 0.4]]), torch.ones(3))
    assert norms.tolist() == pytest.approx([5.0, 0.5])
    torch.testing.assert_close(stack.first, 0.1 * torch.tensor([[0.6, 0.8], [0.3, 0.4]]))
    torch.testing.assert_close(stack.targets, 0.5 * stack.networks)


def test_a_trainers_weights_moments_copies_and_replay_lie_in_the_stack(unrecorded):
    group = together(CASES["mlp, stored steps, rewards divided"])
    group.round()
    second = group.trainers[1]
    held = owned(second.dump().groups)
    with torch.no_grad():
        for value in (*vars(group.stack).values(), group.replay.floats, group.carry.episode_return):
            value.add_(1)
    moved = second.dump()
    for part, names in {"networks": None, "replay": ["floats"], "training": ["episode_return", "optimiser.agents.0.exp_avg"]}.items():
        for name in names or held[part]:
            torch.testing.assert_close(moved.groups[part][name].double(), held[part][name].double() + 1)


# Runs

RUN = {
    "network.hidden": 8, "evaluation.every": 64, "evaluation.episodes": 2, "evaluation.final_episodes": 2, "compile": "off",
    "replay.sampling": "uniform", "replay.capacity": 100, "replay.rollout_steps": 8, "replay.num_envs": 2, "replay.minibatch_size": 16,
}  # fmt: skip


def run_seeds(out: Path, **more: Any) -> list[Any]:
    return train_seeds("native/spread", seeds=[3, 5], algo="qmix", steps=192, preset="none", options=RUN, out=out, **more)


def run_alone(out: Path, **more: Any) -> Any:
    return train("native/spread", seed=5, algo="qmix", steps=192, preset="none", options=RUN, out=out, **more)


def assert_equal_runs(first: Path, second: Path) -> None:
    """The same files and records, numbers to rounding."""
    listings = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) for folder in (first, second)]
    assert listings[0] == listings[1]
    for mine, theirs in zip(read_metrics(first), read_metrics(second), strict=True):
        assert mine.keys() == theirs.keys()
        numbers = [{name: value for name, value in record.items() if isinstance(value, int | float)} for record in (mine, theirs)]
        timed = {"time.seconds": 0, "time.env_steps_per_second": 0}
        assert numbers[0] | timed == pytest.approx(numbers[1] | timed, rel=1e-3)
    ends = [read(latest(folder / "checkpoints")).groups for folder in (first, second)]
    for group, tensors in ends[0].items():
        torch.testing.assert_close(tensors, ends[1][group], rtol=0, atol=1e-4)


def test_every_seed_leaves_the_run_that_it_leaves_alone_and_that_can_be_used_and_prolonged(unrecorded, tmp_path):
    events: list[dict[str, Any]] = []
    runs = run_seeds(tmp_path / "all", on_event=events.append)
    assert [run.folder.name for run in runs] == ["seed-3", "seed-5"]
    solo = run_alone(tmp_path / "solo")
    assert (runs[1].folder / "config.yaml").read_bytes() == (solo.folder / "config.yaml").read_bytes()
    assert_equal_runs(runs[1].folder, solo.folder)
    assert evaluate(runs[1], episodes=3).returns == pytest.approx(evaluate(solo, episodes=3).returns)
    assert {event["run"] for event in events if event["event"] != "note"} == {str(run.folder) for run in runs}
    ends = [resume(str(folder), steps="+64") for folder in (runs[1].folder, solo.folder)]
    assert [end.env_steps for end in ends] == [256, 256]
    assert_equal_runs(ends[0].folder, ends[1].folder)


def test_a_signal_saves_every_seed_and_each_goes_on_alone_as_if_nothing_had_happened(unrecorded, tmp_path):
    polls = iter([None] * 4 + [15])
    with pytest.raises(Interrupted, match=r"stopped at 80 env steps; every seed is saved.*resume .*seed-3; marl resume .*seed-5") as caught:
        run_seeds(tmp_path / "all", stop_signal=lambda: next(polls))
    assert caught.value.exit == 143
    folders = [tmp_path / "all" / name for name in ("seed-3", "seed-5")]
    assert [load(folder).env_steps for folder in folders] == [80, 80]
    resume(str(folders[1]))
    solo = run_alone(tmp_path / "solo")
    records = [[record for record in read_metrics(folder) if record["event"] == "train"] for folder in (folders[1], solo.folder)]
    for mine, theirs in zip(*records, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-3)


def test_a_seed_that_diverges_is_named_and_the_others_finish(unrecorded, tmp_path, monkeypatch):
    class Poisoned(Together):
        def round(self) -> None:
            super().round()
            with torch.no_grad():
                self.stack.networks[0] = torch.nan

    monkeypatch.setattr(seed_runs, "Together", Poisoned)
    with pytest.raises(Diverged, match=r"seed-3: training diverged before env step 32.*the other 1 seed is finished"):
        run_seeds(tmp_path / "all")
    assert len(list_checkpoints(tmp_path / "all" / "seed-3" / "checkpoints")) == 1  # the one before the first round
    assert_equal_runs(tmp_path / "all" / "seed-5", run_alone(tmp_path / "solo").folder)


# What is refused


@pytest.mark.parametrize(
    "task, options, sentence",
    [
        ("mpe/simple_spread", {}, r"mpe/simple_spread is stepped in Python.*only native tasks"),
        ("native/spread", {"algo": "coma"}, "a counterfactual critic draws"),
        ("native/spread", {"critic.kind": "mlp"}, "a counterfactual critic draws"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:pygame.*")
def test_what_is_not_vectorised_is_named_with_the_way_out(task, options, sentence, tmp_path):
    with pytest.raises(ConfigError, match=sentence) as caught:
        train_seeds(task, seeds=[0, 1], steps=64, options=options, out=tmp_path / "all")
    assert "--jobs 2" in caught.value.remedy
    assert not (tmp_path / "all").exists()


def test_replays_that_fit_alone_and_not_together_are_refused_before_allocation(monkeypatch):
    config = configs(UNIFORM | {"replay.capacity": 1_000}, 1)[0]
    env = make("native/spread")
    single = shared_replay(config, env, 1, lambda text: None).footprint
    monkeypatch.setattr("teamcredit.marl.replay.machine_memory", lambda: 10 * single)
    shared_replay(config, env, 5, lambda text: None)
    sentence = r"the replays of 6 seeds together would take .*6,000 joint.*capacity to at most 833, or train fewer"
    with pytest.raises(ConfigError, match=sentence):
        shared_replay(config, env, 6, lambda text: None)


def test_a_folder_that_is_taken_leaves_no_other_seeds_folder_behind(tmp_path):
    (tmp_path / "all" / "seed-5").mkdir(parents=True)
    (tmp_path / "all" / "seed-5" / "mine").touch()
    with pytest.raises(ConfigError, match="seed-5 exists and is not empty"):
        run_seeds(tmp_path / "all")
    assert [path.name for path in (tmp_path / "all").iterdir()] == ["seed-5"]


def command(*words: str) -> list[str]:
    flags = [f"--{name}={value}" for name, value in RUN.items()]
    return ["train", "native/spread", "--algo=vdn", "--steps=32", "--vectorize-seeds", *flags, *words]


def test_the_command_prints_json_lines_that_say_their_run(unrecorded, tmp_path, capsys):
    assert main(command("--seeds=0-1", f"--out={tmp_path / 'all'}", "--json")) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    finals = [line for line in lines if line["event"] == "done"]
    assert [Path(line["run"]).name for line in finals] == ["seed-0", "seed-1"]
    assert all("run" in line for line in lines)


def test_the_command_shows_a_person_each_seeds_return(unrecorded, tmp_path, capsys):
    assert main(command("--seeds=0,4", f"--out={tmp_path / 'all'}")) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split("final")[0].strip() for line in shown] == ["seed 0", "seed 4", "2 seeds  mean of their"]


def test_two_processes_share_the_seeds_and_change_no_number(unrecorded, tmp_path, capfd):
    assert main(command("--seeds=0-2", "--jobs=2", f"--out={tmp_path / 'shared'}")) == 0
    shown = capfd.readouterr()
    assert {line.partition("]")[0] for line in shown.out.splitlines()} == {"[seeds 0,2", "[seed 1"}
    assert main(command("--seeds=0-2", f"--out={tmp_path / 'one'}")) == 0
    for seed in range(3):
        shared, one = (json.loads((tmp_path / way / f"seed-{seed}" / "result.json").read_text()) for way in ("shared", "one"))
        assert shared["return"]["mean"] == pytest.approx(one["return"]["mean"], abs=1e-3)


@pytest.mark.parametrize(
    "words, sentence",
    [(["--seeds=3"], "name at least two"), (["--seed=3"], "name at least two"), (["--seeds=0-3", "--jobs=0"], "must be at least 1")],
)
def test_a_command_that_cannot_be_meant_is_refused(words, sentence, capsys, tmp_path):
    assert main(command(*words, f"--out={tmp_path / 'all'}")) == 2
    assert sentence in capsys.readouterr().err
