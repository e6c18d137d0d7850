"""benchmarks/ablate.py: studies are read or refused, networks fit, and what is finished is not repeated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import ablate
from litesnn.data.sources import load
from litesnn.errors import InputError
from litesnn.search.derive import largest_file
from litesnn.training_loop.session import input_info

STUDY = """
recipe = "digits"
seeds = [0, 1]
network = { bits = 2, packed_bytes = 3000, timesteps = 1 }

[set]
"train.epochs" = 1
"train.epoch_steps" = 2
"data.train_limit" = 200
"data.test_limit" = 40

[variants.today]

[variants.graded]
"model.spike_levels" = 3
"train.init" = "identity"

[variants.one]
network.bits = 1
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(STUDY, encoding="utf-8")
    return path


def test_a_study_is_every_variant_with_every_seed(study: Path) -> None:
    variants = ablate.Study.read(study).variants
    assert [variant.run_name for variant in variants] == [
        "today-0",
        "graded-0",
        "one-0",
        "today-1",
        "graded-1",
        "one-1",
    ]
    assert [variant.recipe.seed for variant in variants] == [0, 0, 0, 1, 1, 1]
    assert [variant.network["bits"] for variant in variants[:3]] == [2, 2, 1]
    assert [variant.recipe.model.spike_levels for variant in variants[:3]] == [1, 3, 1]
    assert all(variant.recipe.train.epochs == 1 for variant in variants)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipe = 'digits'", "no variants"),
        ("epochs = 3\n[variants.a]", "unknown key 'epochs'"),
        ("recipe = 'digits'\n[variants.a]\n'train.epoks' = 1", "train.epoks"),
        ("= 3", "cannot be read as a study"),
    ],
)
def test_what_is_no_study_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "study.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        ablate.Study.read(path)


def test_a_network_is_as_wide_as_fits(study: Path) -> None:
    two, _, one = ablate.Study.read(study).variants[:3]
    info = input_info(load(two.recipe.data, two.recipe.front_ends))
    networks = [ablate.network_of(variant, info) for variant in (two, one)]
    for network, bits in zip(networks, (2, 1), strict=True):
        assert {cell.bits for cell in network.cells} == {bits}
        assert largest_file(network, info) <= 3000
        wider = ablate.uniform_network(two.recipe, bits=bits, width=network.cells[0].width + 1, timesteps=1)
        assert largest_file(wider, info) > 3000
    assert networks[1].cells[0].width > networks[0].cells[0].width
    for said, message in (({"bits": 2}, "expected bits, and"), ({"bits": 2, "packed_bytes": 9}, "no width fits 9 B")):
        with pytest.raises(InputError, match=message):
            ablate.network_of(ablate.Variant("a", 0, said, two.recipe), info)


def test_a_study_goes_on_and_repeats_nothing(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    arguments = [str(study), "--runs", str(runs), "--device", "cpu"]
    assert ablate.main([*arguments, "--only", "graded"]) == 0
    results = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (runs / "results").iterdir()}
    assert set(results) == {"graded-0", "graded-1"}
    for result in results.values():
        assert result["genotype"]["spike_levels"] == 3
        assert len(result["epochs"]) == 1
        assert 0 < result["firing_rate"] < 1
        assert "test_accuracy" not in result
    assert "| graded | 2 |" in capsys.readouterr().out
    before = (runs / "graded-0" / "train.jsonl").stat().st_mtime_ns
    assert ablate.main([*arguments, "--only", "graded", "--test"]) == 0
    assert (runs / "graded-0" / "train.jsonl").stat().st_mtime_ns == before
    assert "test_accuracy" in json.loads((runs / "results" / "graded-0.json").read_text(encoding="utf-8"))
    study.write_text(STUDY.replace('"train.epochs" = 1', '"train.epochs" = 2'), encoding="utf-8")
    with pytest.raises(InputError, match="was made with other settings"):
        ablate.main([*arguments, "--only", "graded"])
    with pytest.raises(InputError, match="has no variant 'other'"):
        ablate.main([*arguments, "--only", "other"])
