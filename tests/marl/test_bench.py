"""The measuring instruments: turns and ratios by hand, sides in processes of their own, what the rows say of peers that are missing."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from teamcredit.marl.bench import clock, memory, peers, replay, scaling, suite, updates
from teamcredit.marl.bench.child import Child, SideFailed
from teamcredit.marl.bench.clock import Pace, Turn, interleave, one_core, steady
from teamcredit.marl.bench.report import ratio, to_text
from teamcredit.marl.bench.rows import Row, compare, paired
from teamcredit.marl.cli import main

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
PACE = Pace(turns=1, seconds=0.001)
TINY = suite.Sizes(
    turns=1, seconds=0.001, copies=(4,), originals=("native/spread", "native/foraging-8x8-2p-3f", "native/no-such-task"),
    minibatches=(32,), algos=("vdn",), env_copies=(8, 16), agents=(3, 4), seeds=(1, 2), learning_starts=300, memory_rounds=1,
    compiled=False,
)  # fmt: skip


@pytest.fixture
def alone(monkeypatch):
    """A machine on which no peer is installed."""
    for name, peer in peers.PEERS.items():
        monkeypatch.setitem(peers.PEERS, name, replace(peer, modules=("no_such_module",)))


def side_of(name: str, calls: list[str], speed: float = 1.0):
    def turn(seconds: float) -> Turn:
        calls.append(name)
        return Turn(units=speed * seconds, seconds=seconds)

    return turn


# Turns and rows --------------------------------------------------------------------------------------------------------


def test_sides_alternate_and_the_first_turn_of_each_does_not_count():
    calls: list[str] = []
    done = interleave({"a": side_of("a", calls), "b": side_of("b", calls)}, Pace(turns=3, seconds=1.0))
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert {name: len(turns) for name, turns in done.items()} == {"a": 3, "b": 3}


def test_a_row_holds_medians_and_the_ratio_of_turns_that_stood_side_by_side():
    ours = [Turn(10.0, 1.0), Turn(30.0, 1.0), Turn(40.0, 2.0)]  # speeds 10, 30, 20
    theirs = [Turn(10.0, 1.0), Turn(10.0, 1.0), Turn(10.0, 2.0)]  # speeds 10, 10, 5
    row = paired("w", "p", "u", ours, theirs)
    assert (row.ours, row.theirs) == (20, 10)
    assert (row.ratio, row.ratio_min, row.ratio_max) == (3, 1, 4)


def test_one_row_for_each_peer_from_the_same_turns_of_ours():
    calls: list[str] = []
    rows = compare("w", "u", side_of("o", calls, 6.0), {"slow": side_of("s", calls, 2.0), "fast": side_of("f", calls, 12.0)}, pace=PACE)
    assert [(row.peer, row.ratio) for row in rows] == [("slow", 3.0), ("fast", 0.5)]
    assert calls.count("o") == 2
    assert compare("w", "u", side_of("o", calls), {}, pace=PACE) == []


def test_a_steady_side_goes_on_until_its_seconds_are_spent(monkeypatch):
    times = iter([0.0, 0.4, 0.9, 1.1])
    monkeypatch.setattr(clock, "cpu_seconds", lambda: next(times))
    assert steady(lambda: 5.0)(1.0) == Turn(15.0, 1.1)


def test_cpu_seconds_are_of_work_and_of_ended_children_not_of_waiting():
    began = clock.cpu_seconds()
    subprocess.run([sys.executable, "-c", "sum(range(3_000_000))"], check=True)
    assert clock.cpu_seconds() - began > 0.01


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not pin")
def test_pinning_holds_inside_and_is_undone_after():
    before = os.sched_getaffinity(0)
    with one_core() as core:
        assert os.sched_getaffinity(0) == {core}
    with one_core(pin=False) as core:
        assert core is None
    assert os.sched_getaffinity(0) == before


# Sides in processes of their own ---------------------------------------------------------------------------------------

SERVED = """
import sys
from teamcredit.marl.bench.child import serve
from teamcredit.marl.bench.clock import Turn
print("a library says hello")
def make():
    print("and again")
    def turn(seconds):
        print("and in every turn")
        return Turn(3.0, seconds)
    return turn, {"version": "1.2"}
serve(make)
"""


def test_a_child_is_a_side_whatever_its_libraries_print():
    child = Child(["-c", SERVED.replace('print("a library says hello")\n', "")])
    assert child.facts == {"version": "1.2"}
    assert child(0.5) == Turn(3.0, 0.5)
    assert child.peak_memory() > 1_000_000
    child.close()
    child.close()


def test_a_child_that_ends_says_its_last_words():
    with pytest.raises(SideFailed, match=r"^ImportError: no peer here$"):
        Child(["-c", "raise ImportError('no peer here')"])
    leaving = SERVED.replace("return Turn(3.0, seconds)", "sys.exit('gone in the middle')").replace('print("a library says hello")\n', "")
    child = Child(["-c", leaving])
    with pytest.raises(SideFailed, match=r"^gone in the middle$"):
        child(0.1)


# What is measured ------------------------------------------------------------------------------------------------------


def test_the_products_of_a_linear_layer_forward_and_backward_are_three():
    layer, x = torch.nn.Linear(4, 5), torch.zeros(7, 4, requires_grad=True)
    shapes = updates.products(lambda: layer(x).sum().backward())
    assert sorted(shapes) == [((5, 7), (7, 4)), ((7, 4), (4, 5)), ((7, 5), (5, 4))]  # by the weight, forward, by the input


def test_the_floor_multiplies_every_shape_batched_ones_too():
    assert updates.bare([((7, 4), (4, 5)), ((3, 7, 4), (3, 4, 5))])() == 1.0


@pytest.mark.parametrize("algo", ["qmix", "vdn"])
def test_jaxmarls_settings_bring_one_update_of_32_windows_of_26_steps_for_8_copies_of_26_steps(algo):
    learning = scaling.warmed(updates.trainer(algo, updates.RECURRENT | {"replay": updates.RECURRENT["replay"] | {"learning_starts": 208}}))
    before = learning.counters.iterations
    for _ in range(3):
        learning.round()
    assert learning.counters.iterations == before + 3
    assert learning.config.replay.batch == 8 * 26
    assert learning.replay.uniform(learning.generator).steps.reward.shape == (26, 32)


def test_a_random_rollout_has_every_field_and_all_stores_are_asked_for_the_same():
    rollout = replay.random_rollout(torch.Generator().manual_seed(0))
    assert rollout.obs.shape == (replay.STEPS, replay.COPIES, 3, 18)
    add, sample = replay.own_store(rollout, 32)
    assert (add(), sample()) == (256.0, 32.0)


def test_peers_that_are_missing_get_rows_that_say_what_to_install(alone):
    rows = [
        *replay.measure_sample(32, PACE),
        *suite.stepping.measure_batched(2, PACE),
        *suite.stepping.measure_original("native/spread", 1, PACE),
    ]
    assert {row.peer for row in rows} == {"cpprb", "TorchRL", "VMAS", "JaxMARL", "MPE2"}
    for row in rows:
        extra = "envs" if row.peer == "MPE2" else "bench"
        assert row.note == f'not installed: pip install "teamcredit[{extra}]"'
        assert row.ratio is row.ours is row.theirs is None


def test_stepping_masked_and_unmasked_tasks_counts_one_unit_per_copy_and_step():
    for task in ("native/spread", "native/foraging-8x8-2p-3f"):
        turn = suite.stepping.stepper(task, 6)(0.001)
        assert turn.units % 6 == 0
        assert turn.units > 0
        assert turn.seconds >= 0.001


def test_more_of_something_is_measured_beside_the_least_of_it():
    rows = scaling.measure_seeds(lambda count: lambda: float(count), (1, 2, 4), PACE)
    assert [(row.what, row.peer) for row in rows] == [("training 2 seeds", "1 seed"), ("training 4 seeds", "1 seed")]


def test_the_process_that_trains_prints_its_peak_memory(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["memory", "native/two-step", "vdn", "1"])
    memory.main()
    assert int(capsys.readouterr().out) > 10_000_000


# Words and JSON --------------------------------------------------------------------------------------------------------


def test_a_ratio_reads_with_its_lowest_and_highest():
    row = Row("w", "p", "u", 3.0, 2.0, 1.5, 1.25, 1.75)
    assert ratio(row) == "1.5 (1.25 to 1.75)"
    assert ratio(replace(row, ratio_min=None)) == "1.5"
    assert ratio(Row("w", "p", "u")) == "-"


def test_rows_of_one_unit_stand_in_one_table_under_the_machine():
    header = {
        "machine": {"cpu": "a chip", "cores": 2, "pinned_to_core": 1, "torch_threads": 1, "load": 0.5, "system": "s"},
        "versions": {"torch": "2.13"},
    }
    text = to_text(header, [Row("first", "p", "steps"), Row("second", "p", "MB"), Row("third", "p", "steps", note="see there")])
    assert text.startswith("a chip, 2 cores, load 0.5; pinned to core 1, 1 torch thread\ntorch 2.13\n")
    assert text.index("third") < text.index("second")
    assert "see there" in text


def test_bench_speed_prints_one_document_with_its_keys(alone, monkeypatch, capsys):
    monkeypatch.setattr(suite, "QUICK", TINY)
    monkeypatch.setattr(scaling, "_peak_of", lambda task, algo, rounds: 200.0 + int(rounds))  # two processes: its program has a test above
    assert main(["bench", "speed", "--quick", "--seed", "5", "--json"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document.keys() == {"schema", "seed", "machine", "versions", "rows"}
    assert (document["schema"], document["seed"]) == (1, 5)
    assert document["machine"].keys() == {"cpu", "cores", "pinned_to_core", "torch_threads", "load", "system"}
    assert {"teamcredit", "python", "torch"} <= document["versions"].keys()
    for row in document["rows"]:
        assert row.keys() == {"what", "peer", "ours", "theirs", "unit", "ratio", "ratio_min", "ratio_max", "note"}
        assert (row["ratio"] is None) == row["note"].startswith("not installed")
        if row["ratio_min"] is not None:
            assert row["ratio_min"] <= row["ratio"] <= row["ratio_max"]
    whats = " / ".join(row["what"] for row in document["rows"])
    for part in ("stepping native/foraging", "replay add", "replay sample", "training vdn-gru", "update vdn-gru", "16 copies", "4 agents",
                 "2 seeds", "peak memory"):  # fmt: skip
        assert part in whats
    assert "no-such-task" not in whats
    assert "measuring  memory" in err


def test_the_help_of_bench_imports_nothing_heavy():
    script = (
        "import sys; from teamcredit.marl.cli import main; main(['bench', 'speed', '--help']); print({'torch', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "--quick" in done.stdout
    assert done.stdout.endswith("set()\n")


def test_the_peers_script_says_how_to_get_what_it_lacks():
    command = [sys.executable, str(SCRIPTS / "bench_peers.py"), "--only", "jaxmarl", "epymarl", "--epymarl", "/no/such/folder", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout)["rows"]
    assert [row["peer"] for row in rows] == ["jaxmarl", "epymarl"]
    for row, folder in zip(rows, ("JaxMARL", "/no/such/folder"), strict=True):
        assert row["ratio"] is None
        assert row["note"].startswith("no checkout: git clone https://github.com/")
        assert f"git -C {folder} checkout " in row["note"]
