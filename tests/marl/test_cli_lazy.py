"""`marl lazy` as a person and a program meet it: the report's keys and columns, and its options."""

import json

import pytest
from teamcredit.marl.cli import main
from teamcredit.marl.cli_lazy import parse_range
from teamcredit.marl.errors import ConfigError

TRAIN = ["--steps", "0", "--members", "guard=trained,walker=trained,dummy=trained", "--final-episodes", "2", "-q"]


@pytest.fixture(scope="module")
def plate(tmp_path_factory):
    """A run of plate and door in which everybody is planted."""
    folder = tmp_path_factory.mktemp("plate") / "run"
    assert main(["train", "native/plate-and-door", "--algo", "vdn", *TRAIN, "--out", str(folder)]) == 0
    return str(folder)


def test_the_document_holds_the_whole_report(cli, plate):
    code, out, err = cli("lazy", plate, "--check", "--strict", "--json")
    document = json.loads(out)
    assert code == 0  # nobody is lazy, nobody undecided
    assert {name: entry["verdict"] for name, entry in document["agents"].items()} == {
        "guard": "guard",
        "walker": "contributing",
        "dummy": "not-needed",
    }
    dummy, guard = document["agents"]["dummy"], document["agents"]["guard"]
    assert dummy["references"]["noop"].items() >= {"share": 0.0, "share_times_n": 0.0, "identical": True, "pivotal": 0.0}.items()
    assert dummy["headroom"] == {"gain": 0.0, "stand_in": "random", "room": "excluded"}
    assert (dummy["influence"], dummy["substitutes"], dummy["has_choice"]) == (0.0, [], 1.0)
    assert guard["headroom"] is guard["substitutes"] is None
    assert 0 < guard["references"]["random"]["pivotal"] < 1
    assert document["env_steps_played"] == sum(document["env_steps_by_stage"].values())
    assert document["floor"]["first"] > document["floor"]["last"] > 0
    assert all(len(entry["digest"]) == 12 for entry in document["references"].values())
    assert len(document["checkpoint"]["digest"]) == 12
    assert document["paired"] is True
    assert "no agent can be called lazy before" in err


def test_the_text_has_a_row_and_a_sentence_per_agent(cli, plate):
    _, out, _ = cli("lazy", plate, "-q")
    assert "share x n" in out
    row = next(line for line in out.splitlines() if line.startswith("dummy "))
    assert "+0 excluded (random)" in row
    assert "=" in row
    assert "against the largest margin; tried: trained, random" in out
    assert "=: the agent's policy acts just as this reference does" in out
    assert 'dummy is not needed: replaced by "noop" the team loses 0 of 1 and by "random"' in out


def test_without_a_closer_look_the_dummy_seems_lazy_and_the_report_says_why(cli, plate):
    code, out, _ = cli("lazy", plate, "--no-look", "--check", "-q")
    assert code == 1
    assert next(line for line in out.splitlines() if line.startswith("dummy ")).split()[1] == "lazy-idle"
    assert "Nobody looked closer (--no-look)" in out


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--return-range", "0"], '--return-range "0" is no range'),
        (["--return-range=-1,-2"], "must be below the highest"),
        (["--return-range", "-1,0.5"], "does not hold: an episode's team return was 1"),
        (["--best-response=-1"], "--best-response -1 must be at least 0"),
        (["--max-pairs", "100000"], "episode seeds of one --seed would not be enough"),
        (["--margin", "1"], "between 0 and 1"),
    ],
)
def test_an_option_that_makes_no_sense_gets_a_sentence(cli, plate, words, sentence):
    code, _, err = cli("lazy", plate, *words)
    assert code == 2
    assert sentence in err


def test_a_range_is_two_numbers():
    assert parse_range(None) is None
    assert parse_range("-0.5,2") == (-0.5, 2.0)
    for text in ("", "1", "a,b", "1,2,3"):
        with pytest.raises(ConfigError, match="is no range"):
            parse_range(text)
