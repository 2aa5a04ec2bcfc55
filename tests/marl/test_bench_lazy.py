"""`marl bench lazy`: what is true of planted teams, how verdicts are counted, and that a broken detector does not pass."""

import functools
import json
from dataclasses import replace

import pytest
import torch
from teamcredit.credit.evidence import begin, floor_pairs, log_e_below, ranking, update
from teamcredit.credit.margin import Margin
from teamcredit.envs.spread_policy import landmark_mover
from teamcredit.marl.bench import lazy as bench
from teamcredit.marl.bench.lazy import OURS, Said, _floor, bench_lazy
from teamcredit.marl.bench.lazy_drift import drift_of
from teamcredit.marl.bench.lazy_report import markdown, to_text
from teamcredit.marl.bench.lazy_stress import measure_stress, wilson
from teamcredit.marl.bench.planted import GAMES, LuckyCoalition, draw_coalition, draw_team, foraging_team, plate_team
from teamcredit.marl.bench.planted_pool import MARGIN_EPISODES, PAIRS, Pool, Sizes, Truth, play_pool
from teamcredit.marl.bench.planted_score import Record, attainable_power, auc, rates, row_of, truth_of
from teamcredit.marl.cli import main
from teamcredit.marl.evaluate import play, seeds_from
from teamcredit.marl.policies import make_policy, random_policy
from teamcredit.marl.trainer import scripted_policies

SMALL = Sizes(pairs=256, margin=64, room=64)


def call_all_lazy(planted, margin, seed):
    return [Said("lazy-idle", 64, 1.0) for _ in planted.members]


def never_tell(planted, margin, seed):
    return [Said("undecided", 512, 1.0) for _ in planted.members]


small_bench = functools.partial(bench_lazy, quick=True, teams=1, families=("coalition", "plate-and-door"), margins=(0.25,))


@pytest.fixture(scope="module")
def found():
    return small_bench(seed=3)


def test_the_document_has_what_is_promised(found):
    document = json.loads(json.dumps(found.document()))
    ours = [line for line in document["detectors"] if line["name"] == OURS]
    assert [line["family"] for line in ours] == ["coalition", "plate-and-door", "all"]
    promised = {
        "margin",
        "false_lazy_rate",
        "recall",
        "precision",
        "auc_16",
        "cannot_tell",
        "median_pairs",
        "floor",
        "env_steps_per_verdict",
    }
    assert promised <= ours[0].keys()
    others = {line["name"] for line in document["detectors"]} - {OURS}
    assert others == {"no-op frequency", "action entropy", "mixer gradient", "mean COMA advantage", "LAIES index", "t-test",
                      "percentile bootstrap"}  # fmt: skip
    assert "t-test" in to_text(found)
    assert "| t-test |" in markdown(found)


def test_the_same_seed_gives_the_same_figures_and_another_seed_other_teams(found):
    assert small_bench(seed=3).document() == found.document()
    assert small_bench(seed=4).document() != found.document()


def test_our_detector_names_the_idler_of_the_additive_game_and_leaves_guard_and_dummies_alone(found):
    said = {(record.family, record.member, record.role): record.verdict for record in found.records}
    assert said["plate-and-door", "good", "guard"] == "guard"
    assert all(record.called_lazy == (record.truth == "lazy") for record in found.records)


@pytest.mark.parametrize("broken, missed", [(call_all_lazy, "false-lazy rate"), (never_tell, "recall within 512 pairs")])
def test_a_broken_detector_misses_its_targets(broken, missed):
    found = small_bench(seed=3, judge=broken)
    assert not found.ok
    assert missed in [check.what for check in found.checks if not check.met]


def test_check_exits_with_1_for_a_broken_detector_and_with_0_for_ours(monkeypatch, capsys):
    words = [
        "bench",
        "lazy",
        "--quick",
        "--teams",
        "1",
        "--families",
        "coalition,plate-and-door",
        "--margin",
        "0.25",
        "--seed",
        "3",
        "--check",
    ]
    assert main(words) == 0
    monkeypatch.setattr(bench, "bench_lazy", functools.partial(bench_lazy, judge=call_all_lazy))
    assert main([*words, "--json"]) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["ok"] is False


@pytest.mark.parametrize(
    "words, message",
    [(["--families", "forraging"], "foraging"), (["--margin", "1.5"], "between 0 and 1"), (["--teams", "0"], "at least 1")],
)
def test_bad_input_is_named(words, message, capsys):
    assert main(["bench", "lazy", "--quick", *words]) == 2
    assert message in capsys.readouterr().err


def test_truths_by_their_rules():
    truth = Truth(
        effect=torch.tensor([[0.5, 0.0], [0.0, 0.11], [0.0, -0.3], [-0.3, 0.0], [0.11, 0.1], [0.0, 0.0]]).double(),
        error=torch.zeros(6, 2).double(),
        gain=torch.tensor([6.0, 6.0]).double(),  # delta = 0.2 at m = 0.2
        headroom=torch.tensor([0.0, 0.5, 0.5, 0.5, 0.5, 0.15]).double(),
        pairs=1,
    )
    # -0.3 against no-op harms, against random it does not
    assert truth_of(truth, 0.2, (True, False)) == ["negative", "near", "lazy", "harmful", "near", "not-needed"]
    assert truth_of(truth, 0.2, (False, False))[3] == "lazy"  # without a no-op only what is worse than every reference harms


def record(truth, verdict, *, role="", score=0.0, pairs=10, floor=5, above=False, judged=True):
    return Record("family", "team", 0, "good", role, truth, above, verdict, score, pairs, floor, 1.0, judged)


def test_rates_by_hand():
    found = rates(
        [
            record("lazy", "lazy-idle", score=3.0),
            record("lazy", "undecided", score=1.0, pairs=512),
            record("harmful", "harmful", score=9.0),
            record("negative", "contributing", score=-1.0, above=True),
            record("negative", "lazy-busy", score=2.0, above=True),
            record("not-needed", "not-needed", role="dummy"),
            record("lazy", "lazy-idle", judged=False),
        ]
    )
    assert (found.lazy, found.recall, found.false_lazy, found.innocent, found.false_lazy_rate) == (2, 0.5, 1, 3, 1 / 3)
    assert (found.precision, found.wrong_below, found.cannot_tell, found.harmful_found) == (0.5, 1, 0.25, 1.0)
    assert found.auc == pytest.approx(5 / 6)  # of 3 x 2 pairs only (1, 2) stands in the wrong order
    assert (found.median_pairs, found.over_floor, found.unjudged) == (10, 2.0, 1)
    assert found.rows["dummy"] == (1, 0)


def test_the_order_within_tasks_compares_members_of_one_family_only():
    """Scores of the second family are ten times as large, so that its negative stands above the first one's positives."""
    scored = [
        ("coalition", "lazy", (3.0, 1.0)),
        ("coalition", "negative", (0.0, 2.0)),
        ("foraging", "lazy", (30.0,)),
        ("foraging", "negative", (20.0,)),
    ]
    found = rates([replace(record(truth, "undecided"), family=family, again=again) for family, truth, again in scored])
    assert found.auc_again == pytest.approx((2 + 1 + 3) / 9)  # 3 > 0, 2; 1 > 0; 30 > 0, 2, 20
    assert found.auc_within == pytest.approx((2 + 1 + 1) / 5)


def test_a_guard_that_is_truly_lazy_is_counted_as_lazy():
    assert row_of(record("lazy", "undecided", role="guard")) == "lazy"
    assert row_of(record("negative", "guard", role="guard")) == "guard"


def test_ties_count_half_in_the_auc():
    assert auc(torch.tensor([1.0, 0.0]), torch.tensor([0.0, torch.inf])) == (1 + 0 + 0.5 + 0) / 4
    assert auc(torch.tensor([]), torch.tensor([1.0])) is None


def test_attainable_power_by_hand():
    """n = 2, alpha .05: Holm's first step .025 has quantile 1.96, the last 1.645; z = gap sqrt(pairs) / sd."""
    sd, delta = torch.full((2, 1), 2.0).double(), torch.tensor([1.0]).double()
    alone = attainable_power(torch.tensor([[0.5], [3.0]]).double(), sd, delta, pairs=64, alpha=0.05)
    assert float(alone[0]) == pytest.approx(0.5159, abs=1e-3)  # Phi(0.5 * 8 / 2 - 1.96) = Phi(.04)
    assert float(alone[1]) < 1e-12  # far above the margin
    both = attainable_power(torch.tensor([[0.5], [0.9]]).double(), sd, delta, pairs=64, alpha=0.05)
    assert float(both[0]) == pytest.approx(0.6388, abs=1e-3)  # Phi(2 - 1.645): the other may be claimed first
    assert float(both[1]) == pytest.approx(0.1066, abs=1e-3)  # Phi(.4 - 1.645)


def test_the_floor_at_holms_last_step_is_lower_than_at_its_first():
    """What may be attained is bounded by the last: an agent may be called after all others."""
    one = torch.ones(1, dtype=torch.float64)
    known = Margin(0.25, 4, ("noop",), one, one / 2, 2 * one, bound=10.0, approximate=False, episodes=64)
    small, delta = torch.zeros(1, dtype=torch.float64), known.delta
    first, last = (_floor(small, delta, known, easiest=easiest) for easiest in (False, True))
    assert (first, last) == (floor_pairs(0.0625, 10.0, 0.05 / 4), floor_pairs(0.0625, 10.0, 0.05)) == (699, 478)
    unknown = replace(known, approximate=True)
    assert _floor(small, delta, unknown) > _floor(small, delta, unknown, easiest=True)


def test_windows_of_two_slices_share_no_pair(planted_pool_of_numbers):
    first, second = (planted_pool_of_numbers.windows_of(number, 4, 3) for number in range(2))
    assert first.shape == (3, 1, 1, 4)
    assert first.flatten().tolist() == list(range(12))
    assert second.flatten().tolist() == list(range(20, 32))  # 40 pairs: ten windows of four, five for each slice


@pytest.fixture
def planted_pool_of_numbers():
    nothing = torch.zeros(1, 1).double()
    return Pool(
        planted=draw_team("plate-and-door", 0, torch.Generator()),
        references=("noop",),
        slices=2,
        differences=torch.arange(40).double().view(1, 1, 40),
        team=nothing[0],
        replaced=nothing,
        room=nothing,
        effort=(None,),
        taken=nothing,
        length=1.0,
        env_steps=0,
    )


@pytest.mark.parametrize("kind", GAMES)
def test_the_place_of_a_member_says_nothing_but_the_game_stays_the_same(kind):
    planted = draw_coalition(kind, torch.Generator().manual_seed(5), lazy="good")
    assert isinstance(planted.env, LuckyCoalition)
    table = planted.env.table
    assert table is not None
    n = planted.env.spec.num_agents
    alone_missing = torch.stack([table[-1] - table[(2**n - 1) ^ (1 << agent)] for agent in range(n)])
    needed = {agent for agent in range(n) if float(alone_missing[agent]) > 1e-6}
    expected = {agent for agent, role in enumerate(planted.roles) if role == ""}
    assert needed == expected  # whoever has a role of its own is not missed by the full team


def test_luck_is_drawn_once_for_all_worlds_of_an_episode():
    planted = draw_coalition("additive", torch.Generator().manual_seed(0))
    returns = [play(planted.env, planted.team, seeds_from(7, 500)).returns for _ in range(2)]
    torch.testing.assert_close(returns[0], returns[1])
    assert float(returns[0].std()) > 0


def test_pool_and_truth_share_no_pairs():
    pool = play_pool(plate_team(("good", "half", "noop")), 3, SMALL, 0)
    assert pool.differences.shape[-1] == PAIRS + SMALL.pairs
    assert len(pool.team) == 3 * MARGIN_EPISODES
    everything = pool.differences.sum(-1)
    for number in range(3):
        truth = pool.truth_of(number)
        torch.testing.assert_close(truth.effect * truth.pairs + pool.pairs_of(number).sum(-1), everything)
    assert not pool.room[[0, 2]].any()  # good already; a dummy


def test_plate_and_doors_large_sample_truth_is_that_of_dynamic_programming():
    truth = play_pool(plate_team(("good", "good", "noop")), 1, Sizes(4096, 256, 64), 0).truth_of(0)
    exact = torch.tensor([[0, 0.187929], [1, 0.705838], [0, 0]]).double()  # credit/plate_and_door.py
    assert bool(((truth.effect - exact).abs() <= 4 * truth.error + 1e-6).all())


def test_all_foragers_at_once_do_what_each_would_do_alone_but_in_a_corner():
    planted = foraging_team(("good", "half", "random", "shadow"))
    env = planted.env
    forager = make_policy("forager", env.spec, scripted_policies(env))
    state, view = env.reset(seeds_from(0, 200))
    same = []
    for _ in range(20):
        together, alone = planted.good(view, state.clock), forager(view, state.clock)
        same.append(together == alone)
        wanders = torch.rand(alone.shape, generator=torch.Generator().manual_seed(int(state.clock.step[0]))) < 0.3
        action = torch.where(wanders, random_policy(view, state.clock), alone)
        state, _, view = env.step(state, action, autoreset=False)
    assert float(torch.stack(same).double().mean()) > 0.999


def test_movers_never_choose_the_same_landmark_and_cover_more_than_those_who_stand_still():
    generator = torch.Generator().manual_seed(0)
    agents, landmarks = torch.randn(50, 3, 2, generator=generator), torch.randn(50, 3, 2, generator=generator)
    from teamcredit.envs.spread_policy import _own_landmark

    own = torch.stack([_own_landmark(agents.roll(-first, 1), landmarks) for first in range(3)], 1)
    assert torch.equal(own.sort(1).values, torch.arange(3).expand(50, 3))
    planted = draw_team("spread", 0, torch.Generator().manual_seed(0))
    n = planted.env.spec.num_agents
    good = play(planted.env, planted.team, seeds_from(0, 50)).returns.mean()
    view = planted.env.reset(seeds_from(0, 1))[1]
    assert landmark_mover(view.obs, view.available, num_agents=n).shape == (1, n)
    assert float(good) > -90  # standing still: about -111


def test_wilsons_interval_by_hand():
    low, high = wilson(0.05, 20_000)
    assert (round(low, 4), round(high, 4)) == (0.0471, 0.0531)


def test_a_bound_that_looks_every_time_is_fooled_by_a_rare_event_and_the_test_is_not():
    rows = measure_stress(200, 0, looks=300)
    boundary, power = [row for row in rows if row.kind == "boundary"], [row for row in rows if row.kind != "boundary"]
    assert all(row.low <= 0.05 and row.t_any_look > 0.3 for row in boundary)
    still = [row for row in power if row.kind == "always 0"]
    assert all(row.lazy == 1.0 and row.floor <= (row.median_pairs or 0) <= 2 * row.floor for row in still)


def test_delay_is_counted_from_the_first_evaluation_of_the_turned_agent():
    class Sees:
        """Calls lazy whoever loses the team nothing against no-op in the newest pairs."""

        def __init__(self, num_agents, num_references):
            self.num_agents, self.looks = num_agents, 0

        def look(self, play, delta, bound, budget):
            self.looks += 1
            differences, steps = play(tuple(range(self.num_agents)), 16)
            assert steps == 16 * (1 + differences.shape[0] * differences.shape[1])  # one-step episodes
            return [agent for agent in range(self.num_agents) if not differences[agent, 0].any()]

    class Blind(Sees):
        def look(self, play, delta, bound, budget):
            assert budget > 0
            return []

    seen, missed = drift_of("coalition", 3, 0, Sees), drift_of("coalition", 3, 0, Blind)
    assert (seen.found, seen.median_delay, seen.longest_delay, seen.false_alarms) == (3, 1.0, 1, 0)
    assert (missed.found, missed.median_delay, missed.false_alarms) == (0, None, 0)


def test_ranking_is_the_evidence_where_there_is_a_range_and_an_order_where_there_is_none():
    differences = torch.tensor([[0.0, 0.1] * 8, [0.5, 0.4] * 8]).double()
    known = update(begin(torch.tensor([0.2, 0.2]), 1.0), differences)
    assert torch.equal(ranking(known), log_e_below(known))
    unknown = update(begin(torch.tensor([0.2, 0.2]), 1.0, approximate=True), differences)
    assert log_e_below(unknown).tolist() == [0.0, 0.0]
    assert ranking(unknown)[0] > ranking(unknown)[1]
