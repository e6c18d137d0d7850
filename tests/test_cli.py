from __future__ import annotations

import csv
import html
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO, StringIO, TextIOWrapper
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import litesnn as package
from litesnn.config import shipped_recipes
from litesnn.runs import RunFolder
from whole_job import ALL_FILES, STAGE_RESULTS, Outcome, Problem, contents, inputs, litesnn, stamps, write_data

COMMANDS = ("design", "search", "derive", "train", "evaluate", "pack", "report", "info", "predict")


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A finished run that a test may spoil."""
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def refused(outcome: Outcome, code: int = 2) -> str:
    """The one line in which a command gave up."""
    assert outcome.code == code, outcome
    complaints = outcome.complaints
    assert complaints.startswith("litesnn: error: ")
    assert complaints.count("\n") == 1, complaints
    assert "Traceback" not in complaints
    return complaints.removeprefix("litesnn: error: ").strip()


# --- the whole job ---


def test_design_leaves_every_file(first_design: tuple[Path, Outcome]) -> None:
    run, outcome = first_design
    assert (outcome.code, outcome.complaints) == (0, "")
    assert {path.name for path in run.iterdir()} == ALL_FILES
    assert all(path.stat().st_size > 0 for path in run.iterdir() if path.name != ".lock")


def test_the_metrics_are_those_of_the_files(finished: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["packed_bytes"] == (finished / "model.safetensors").stat().st_size
    assert 0 <= metrics["test_accuracy"] <= 1
    assert metrics["test_accuracy"] == metrics["accuracy_at"][-1]
    assert metrics["timesteps"] == len(metrics["accuracy_at"]) <= 2
    assert 0 < metrics["bit_synops"] <= 1e6
    assert metrics["budgets_kept"] is True
    assert sum(map(sum, metrics["confusion"])) == metrics["data"]["test"] == 30
    assert metrics["packed_bytes"] == metrics["header_bytes"] + sum(
        row["positions"] + row["codes"] + row["affine"] for row in metrics["size_table"]
    )
    assert metrics["bit_synops"] == pytest.approx(sum(row["bit_synops"] or 0 for row in metrics["layers"]))


def test_the_summary_says_what_was_measured_and_where_the_report_is(first_design: tuple[Path, Outcome]) -> None:
    run, outcome = first_design
    metrics = json.loads((run / "metrics.json").read_text())
    accuracy = f"{metrics['test_accuracy']:.2%} ± {100 * metrics['test_standard_error']:.1f} of 30"
    for text in ("test accuracy", accuracy, f"{metrics['packed_bytes']:,}", "2,500"):
        assert text in outcome.out
    assert metrics["warnings"]
    for warning in metrics["warnings"]:
        assert warning["label"] in outcome.out
        assert f"litesnn: warning: {warning['text']}\n" in outcome.err
        assert warning["text"] in html.unescape((run / "report.html").read_text())
    assert str(run / "report.html") in outcome.out
    assert str(run / "model.safetensors") in outcome.out


def test_quiet_is_quiet_until_the_summary_and_progress_names_every_stage(problem: Problem, finished: Path) -> None:
    assert litesnn("design", "--run", finished).out.lstrip().startswith("tiny on blobs, seed 0")
    loud = litesnn("search", *problem.options(finished.parent / "loud")[:-1], "--set", "search.epochs=1")
    assert "held-out accuracy" in loud.out


def test_a_long_path_is_one_line_as_it_is(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / ("long " * 40) / ("[bold]" * 40)
    shutil.copytree(finished, run)
    outcome = litesnn("report", run)
    assert (outcome.code, outcome.out, outcome.err) == (0, f"{run / 'report.html'}\n", "")


def test_the_native_engine_takes_no_other_device(finished: Path) -> None:
    outcome = litesnn("evaluate", finished, "--engine", "native", "--device", "cuda")
    assert outcome.code == 2
    assert "--engine native runs on the CPU" in outcome.err


def test_the_report_stands_alone(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert "tiny" in page


def test_stage_by_stage_is_the_same_as_design(problem: Problem, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert litesnn("search", *problem.options(run)).code == 0
    for stage, extra in (("derive", []), ("train", ["--quiet", "--device", "cpu"]), ("evaluate", []), ("pack", [])):
        outcome = litesnn(stage, run, *extra)
        assert (outcome.code, outcome.err) == (0, "")
    assert str(run / "report.html") in litesnn("report", run).out
    assert contents(run) == contents(finished)
    assert {path.name for path in run.iterdir()} == ALL_FILES


def test_a_finished_design_is_left_alone(copy: Path, problem: Problem) -> None:
    before = stamps(copy)
    for options in (["--run", str(copy)], problem.options(copy)):
        assert litesnn("design", *options).code == 0
    after = stamps(copy)
    del before[".lock"], after[".lock"]
    assert after == before


@pytest.mark.job
def test_the_installed_program(tmp_path: Path) -> None:
    """The real process: exit code and streams as a shell sees them."""
    program = Path(sys.executable).with_name("litesnn")
    done = subprocess.run([program, "derive", tmp_path / "none"], capture_output=True, text=True, check=False)
    assert done.stdout == ""
    message = refused(Outcome(done.returncode, done.stdout, done.stderr))
    assert message == f"{tmp_path / 'none'} is not a run folder: it has no recipe.toml"


def test_another_seed_is_another_search(problem: Problem, tmp_path: Path) -> None:
    for seed in ("0", "1"):
        options = [*problem.options(tmp_path / seed), "--set", "search.epochs=1"]
        assert litesnn("search", *options, "--seed", seed).code == 0
    first, second = ((tmp_path / seed / "search.safetensors").read_bytes() for seed in ("0", "1"))
    assert first != second


@pytest.mark.job
def test_paper_mode(problem: Problem, tmp_path: Path) -> None:
    changes = [
        "search.sampling=false",
        "search.keeps=[0.5]",
        "search.widths=[1.0]",
        "search.epochs=1",
        "train.epochs=1",
    ]
    sets = [word for change in changes for word in ("--set", change)]
    outcome = litesnn("design", *problem.options(tmp_path / "run"), "--mode", "paper", *sets)
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["mode"] == "paper"


# --- a budget that is not kept ---


def test_over_budget_is_exit_code_3_with_every_file_there(problem: Problem, tmp_path: Path) -> None:
    run = tmp_path / "run"
    heedless = ("search.epochs=1", "train.epochs=4", "train.penalty=1e-9", "train.dual_lr=1e-9")
    sets = [word for change in heedless for word in ("--set", change)]
    options = [word for word in problem.options(run) if word != "--quiet"]
    outcome = litesnn("design", *options, "--budget", "2500 B, 1 Bit-SynOps", *sets)
    message = refused(outcome, code=3)
    assert "training will push the firing rates down" in outcome.out
    metrics = json.loads((run / "metrics.json").read_text())
    assert message.startswith("budget exceeded: bit_synops ")
    assert message.endswith("over its limit of 1")
    assert "packed_bytes" not in message
    assert metrics["budgets_kept"] is False
    assert {row["name"]: row["kept"] for row in metrics["budgets"]} == {
        "packed_bytes": True,
        "bit_synops": False,
        "timesteps": True,
    }
    assert {path.name for path in run.iterdir()} == ALL_FILES
    assert str(run / "report.html") in outcome.out
    assert "NO" in outcome.out
    for again in (("design", "--run", run), ("evaluate", run)):
        assert refused(litesnn(*again), code=3) == message


# --- bad input ---


def npz(path: Path, x: npt.NDArray[np.generic], y: npt.NDArray[np.generic]) -> str:
    np.savez(path, x=x, y=y)
    return str(path)


def with_nan(folder: Path) -> str:
    x, y = inputs()
    floats = x.astype(np.float32)
    floats[3, 0, 1, 2] = np.nan
    return npz(folder / "nan.npz", floats, y)


def with_an_empty_class(folder: Path) -> str:
    x, y = inputs()
    return npz(folder / "gap.npz", x, np.where(y == 1, 3, y))


def truncated(folder: Path) -> str:
    path = write_data(folder / "cut.npz")
    path.write_bytes(path.read_bytes()[:500])
    return str(path)


BAD_DATA: list[tuple[Callable[[Path], str], str]] = [
    (lambda folder: str(folder / "nowhere.npz"), "nowhere.npz: no such file or folder"),
    (lambda folder: str(folder / "nowhere" / "images"), "no such file or folder"),
    (with_nan, r"not finite"),
    (with_an_empty_class, "class '1' has no"),
    (truncated, "cut.npz: cannot be read"),
    (lambda folder: npz(folder / "one.npz", inputs()[0], np.zeros(150, np.int64)), "have 1 class"),
    (lambda folder: npz(folder / "few.npz", inputs()[0], np.zeros(149, np.int64)), "one label for each input"),
]


@pytest.mark.parametrize("command", ["design", "search"])
@pytest.mark.parametrize(("make", "said"), BAD_DATA)
def test_bad_data(problem: Problem, tmp_path: Path, make: Callable[[Path], str], said: str, command: str) -> None:
    run = tmp_path / "run"
    assert said in refused(litesnn(command, *problem.options(run), "--data", make(tmp_path)))


BAD_OPTIONS = [
    (["--recipe", "nonsense"], f"no recipe 'nonsense': expected a TOML file or one of {', '.join(shipped_recipes())}"),
    (["--recipe", "."], "no recipe '.'"),
    (["--set", "search.epoch=3"], "unknown key 'search.epoch'"),
    (["--set", "nonsense.lr=3"], "unknown key 'nonsense'"),
    (["--set", "seed.lr=3"], "seed"),
    (["--set", "search.epochs"], "expected key=value"),
    (["--set", "=3"], "expected key=value"),
    (["--set", "search.epochs=0"], "search.epochs"),
    (["--set", "search.epochs=many"], "search.epochs"),
    (["--set", "search.bits=[5]"], "search.bits"),
    (["--set", "search.keeps=[0.0]"], "search.keeps"),
    (["--set", "model.levels=[1,0]"], "model.levels"),
    (["--set", 'model.ops=["pool"]'], "unknown op 'pool'"),
    (["--set", "model=3"], "model"),
    (["--mode", "paper"], "mode 'paper' takes one keep ratio"),
    (["--seed", "-1"], "seed"),
    (["--budget", "potato"], "budget part 'potato' of 'potato' is not understood"),
    (["--budget", ""], "not understood"),
    (["--budget", "8 kB, 9 kB"], "names its packed bytes limit twice"),
    (["--budget", "0 B"], "greater than zero"),
    (["--budget", "T <= 99"], "timesteps"),
    (["--budget", "8 kB; 1 M Bit-SynOps"], "not understood"),
    (["--device", "tpu"], "unknown device 'tpu'"),
    (["--device", "meta"], "unknown device 'meta'"),
    (["--device", "cuda:99"], "'cuda:99' is not there"),
    (["--memory", "lots"], "size 'lots' is not understood"),
    (["--memory", "9000 GB"], "--memory asks for 9000.0 GB, but"),
]


@pytest.mark.parametrize(("options", "said"), BAD_OPTIONS)
def test_bad_options(problem: Problem, tmp_path: Path, options: list[str], said: str) -> None:
    assert said in refused(litesnn("design", *problem.options(tmp_path / "run"), *options))


@pytest.mark.parametrize("options", [["--nonsense"], ["--seed", "x"], ["--mode", "fast"], ["--threads", "0"]])
def test_options_that_do_not_exist(options: list[str]) -> None:
    outcome = litesnn("design", *options)
    assert outcome.code == 2
    assert options[0] in outcome.err
    assert "Traceback" not in outcome.err


def test_a_recipe_that_is_no_recipe(problem: Problem, tmp_path: Path) -> None:
    for text, said in (
        ("version = ", "not valid TOML"),
        ("version = 7", "version"),
        ("budget = 3", "budget"),
        ("[search]\nlr = 'high'", "search.lr"),
        ("[sarch]", "unknown key 'sarch'"),
    ):
        (tmp_path / "bad.toml").write_text(text)
        message = refused(litesnn("design", *problem.options(tmp_path / "run"), "--recipe", tmp_path / "bad.toml"))
        assert "bad.toml" in message
        assert said in message
        assert not (tmp_path / "run").exists()


@pytest.mark.job
def test_an_impossible_size_says_what_the_smallest_needs(problem: Problem, tmp_path: Path) -> None:
    options = [*problem.options(tmp_path / "run"), "--set", "search.epochs=1", "--set", "train.epochs=1"]
    message = refused(litesnn("design", *options, "--budget", "200 B"))
    words = message.split()
    costliest = "with the costliest wiring that the search may choose, the smallest network needs "
    assert message.startswith(f"the budget of 200 B packed cannot be kept: {costliest}")
    smallest = int(words[words.index("needs") + 1])
    options[5] = str(tmp_path / "other")
    outcome = litesnn("design", *options, "--budget", f"{smallest} B")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "other" / "model.safetensors").stat().st_size <= smallest


def test_another_recipe_in_the_same_folder(problem: Problem, copy: Path) -> None:
    before = contents(copy)
    message = refused(litesnn("design", *problem.options(copy), "--set", "train.epochs=2"))
    assert "holds a run with another recipe (train.epochs was 12, now 2)" in message
    assert "seed was 0, now 7" in refused(litesnn("design", *problem.options(copy), "--seed", "7"))
    assert contents(copy) == before


def test_a_folder_of_something_else(problem: Problem, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("")
    for command in ("design", "search"):
        message = refused(litesnn(command, *problem.options(tmp_path / "thesis")))
        assert "is not a run folder, and not empty: it holds thesis.tex" in message


@pytest.mark.parametrize("command", ["derive", "train", "evaluate", "pack", "report", "info"])
def test_stages_need_a_run_folder(tmp_path: Path, command: str) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "missing", tmp_path / "empty"):
        assert str(path) in refused(litesnn(command, path))
    assert {entry.name for entry in tmp_path.iterdir()} == {"empty"}
    assert not list((tmp_path / "empty").iterdir())


MISSING = [
    ("derive", "search.safetensors", "run 'litesnn search"),
    ("train", "genotype.json", "run 'litesnn derive"),
    ("evaluate", "network.safetensors", "run 'litesnn train"),
    ("pack", "network.safetensors", "run 'litesnn train"),
    ("pack", "metrics.json", "run 'litesnn evaluate"),
    ("report", "model.safetensors", "run 'litesnn pack"),
]


@pytest.mark.parametrize(("command", "name", "advice"), MISSING)
def test_a_stage_without_what_it_needs_names_the_command(copy: Path, command: str, name: str, advice: str) -> None:
    (copy / name).unlink()
    message = refused(litesnn(command, copy))
    assert name in message
    assert advice in message


@pytest.mark.parametrize(("command", "name", "advice"), MISSING)
def test_the_advice_is_a_command_that_works(problem: Problem, copy: Path, command: str, name: str, advice: str) -> None:
    """What the message tells a person to type has to be understood by the command line."""
    (copy / name).unlink()
    words = refused(litesnn(command, copy)).split("'")[1].split()[1:]
    assert words[0] in advice
    with_quiet = [*words, "--quiet"] if words[0] in ("search", "train") else words
    outcome = litesnn(*with_quiet)
    assert outcome.code == 0, (words, outcome.err)
    assert (copy / name).is_file()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    path.write_bytes(b"\xff\x00garbage\n" * 20)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 0x11
    path.write_bytes(data)


def one_key(path: Path) -> None:
    path.write_text('{"version": 1}')


def broken_line(path: Path) -> None:
    first, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join([first[:40] + "\n", *rest]))


DAMAGE = [
    *[("derive", "search.safetensors", damage) for damage in (cut, empty, garbage, flip)],
    *[("train", "genotype.json", damage) for damage in (cut, empty, garbage, one_key)],
    *[("evaluate", "network.safetensors", damage) for damage in (cut, empty, garbage, flip)],
    ("pack", "network.safetensors", cut),
    ("info", "network.safetensors", cut),
    *[("pack", "metrics.json", damage) for damage in (cut, empty, garbage, one_key)],
    *[("design", "metrics.json", damage) for damage in (cut, one_key)],
    *[("report", "metrics.json", damage) for damage in (cut, one_key)],
    *[("report", "model.safetensors", damage) for damage in (cut, empty, garbage, flip)],
    ("info", "model.safetensors", cut),
    ("predict", "model.safetensors", cut),
    ("report", "search.jsonl", broken_line),
    ("report", "train.jsonl", broken_line),
    ("report", "train.jsonl", garbage),
    ("report", "genotype.json", cut),
    *[(command, "recipe.toml", garbage) for command in ("design", "derive", "train", "evaluate", "pack", "report")],
]


@pytest.mark.parametrize(
    ("command", "name", "damage"), [pytest.param(*row, id=f"{row[0]}-{row[1]}-{row[2].__name__}") for row in DAMAGE]
)
def test_a_damaged_file_is_refused_by_name(
    copy: Path, tmp_path: Path, command: str, name: str, damage: Callable[[Path], None]
) -> None:
    damage(copy / name)
    np.save(tmp_path / "x.npy", inputs()[0])
    arguments: dict[str, list[str | Path]] = {
        "info": [copy / name],
        "predict": [copy / name, tmp_path / "x.npy"],
        "design": ["--run", copy],
    }
    assert name in refused(litesnn(command, *arguments.get(command, [copy])))


@pytest.mark.parametrize("stage", ["search", "train"])
@pytest.mark.parametrize("damage", [cut, empty, garbage])
def test_a_damaged_checkpoint_is_refused_by_name(copy: Path, stage: str, damage: Callable[[Path], None]) -> None:
    """And it stays: whether to begin anew is for a person to say, by deleting it."""
    checkpoint = copy / f"{stage}.checkpoint.safetensors"
    shutil.copy(copy / "network.safetensors", checkpoint)
    shutil.copy(copy / "network.safetensors", copy / "train.best.safetensors")
    assert f"{checkpoint} is not a litesnn {stage} state file" in refused(
        litesnn(stage, *(["--run"] * (stage == "search")), copy)
    )
    damage(checkpoint)
    for name in STAGE_RESULTS[0 if stage == "search" else 2 :]:
        (copy / name).unlink(missing_ok=True)
    assert str(checkpoint) in refused(litesnn("design", "--run", copy))
    assert checkpoint.exists()


def test_a_file_of_another_stage_is_refused(copy: Path) -> None:
    shutil.copy(copy / "search.safetensors", copy / "network.safetensors")
    assert "is not a litesnn network file" in refused(litesnn("evaluate", copy))


def test_a_network_for_other_data(copy: Path, tmp_path: Path) -> None:
    text = (copy / "recipe.toml").read_text()
    x, y = inputs(classes=4)
    other = npz(tmp_path / "four.npz", x, y)
    lines = [f'source = "{other}"' if line.startswith("source") else line for line in text.splitlines()]
    (copy / "recipe.toml").write_text("\n".join(lines))
    assert "there are 4 classes, not 3" in refused(litesnn("evaluate", copy))
    (copy / "data.json").unlink()  # as in runs from before there was one
    assert "was trained on other data than four" in refused(litesnn("evaluate", copy))
    assert not (copy / "data.json").exists()  # what was refused is not kept


# --- info, predict, recipes ---


def test_info(finished: Path) -> None:
    size = (finished / "model.safetensors").stat().st_size
    packed = litesnn("info", finished / "model.safetensors")
    assert packed.code == 0
    assert f"{size:,}" in packed.out.replace("\n", " ").split()
    assert "rate" in packed.out
    assert litesnn("info", finished).out == packed.out
    trained = litesnn("info", finished / "network.safetensors")
    assert trained.code == 0
    assert "3 classes" in trained.out


def test_info_of_what_is_no_network(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    for path in (tmp_path / "a.txt", tmp_path / "none", finished / "metrics.json", finished / "search.safetensors"):
        assert path.name in refused(litesnn("info", path))


def test_predict_an_image(finished: Path, tmp_path: Path) -> None:
    x, _ = inputs()
    Image.fromarray(x[0, 0]).save(tmp_path / "digit.png")
    np.save(tmp_path / "digit.npy", x[0])
    model = finished / "model.safetensors"
    plain = litesnn("predict", model, tmp_path / "digit.png")
    (row,) = json_rows(litesnn("predict", model, tmp_path / "digit.png", "--json"))
    (same,) = json_rows(litesnn("predict", "--json", model, tmp_path / "digit.npy"))
    assert plain.out == f"{tmp_path / 'digit.png'}: {row['class']} ({row['probability']:.1%})\n"
    assert row == same | {"input": str(tmp_path / "digit.png")}
    assert row["class"] in ("0", "1", "2")
    exponents = np.exp(np.array(row["logits"]))
    assert row["probability"] == pytest.approx(exponents.max() / exponents.sum(), rel=1e-5)


def test_predict_many(finished: Path, tmp_path: Path) -> None:
    x, _ = inputs()
    np.savez(tmp_path / "x.npz", x=x[:5])
    np.save(tmp_path / "flat.npy", x[:5, 0])
    outcome = litesnn("predict", finished / "model.safetensors", tmp_path / "x.npz", tmp_path / "flat.npy", "--json")
    found = json_rows(outcome)
    assert [row["input"] for row in found] == [f"{tmp_path / n}[{i}]" for n in ("x.npz", "flat.npy") for i in range(5)]
    assert [row["logits"] for row in found[:5]] == [row["logits"] for row in found[5:]]


def test_predict_takes_a_run_a_folder_and_standard_input(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, _ = inputs()
    (tmp_path / "photos" / "more").mkdir(parents=True)
    Image.fromarray(x[0, 0]).save(tmp_path / "photos" / "b.png")
    Image.fromarray(x[1, 0]).save(tmp_path / "photos" / "more" / "a.png")
    Image.fromarray(x[2, 0]).save(tmp_path / "photos" / ".hidden.png")
    (tmp_path / "photos" / "notes.txt").write_text("")
    np.save(tmp_path / "x.npy", x[:2])
    outcome = litesnn("predict", finished, tmp_path / "photos", "--json")
    assert outcome.err == f"litesnn: warning: {tmp_path / 'photos'}: 1 other file is not read\n"
    found = [json.loads(line) for line in outcome.out.splitlines()]
    assert [row["input"] for row in found] == [str(tmp_path / "photos" / name) for name in ("b.png", "more/a.png")]
    for content, names in (
        ((tmp_path / "photos" / "b.png").read_bytes(), ["-"]),
        ((tmp_path / "x.npy").read_bytes(), ["-[0]", "-[1]"]),
    ):
        monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(content)))
        rows = json_rows(litesnn("predict", finished / "model.safetensors", "-", "--json"))
        assert [row["input"] for row in rows] == names
        assert rows[0]["logits"] == found[0]["logits"]
    for content, said in ((b"", "standard input is empty"), (b"no picture", "standard input")):
        monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(content)))
        assert said in refused(litesnn("predict", finished, "-"))


def test_predict_goes_on_after_a_bad_input_and_fails_at_the_end(finished: Path, tmp_path: Path) -> None:
    x, _ = inputs()
    np.save(tmp_path / "x.npy", x[0])
    outcome = litesnn("predict", finished, bad_png(tmp_path), tmp_path / "x.npy", tmp_path / "none.png", "--json")
    assert outcome.code == 2
    assert [json.loads(line)["input"] for line in outcome.out.splitlines()] == [str(tmp_path / "x.npy")]
    first, second = outcome.err.splitlines()
    assert first.startswith(f"litesnn: error: {tmp_path / 'text.png'}")
    assert second == f"litesnn: error: {tmp_path / 'none.png'}: no such file or folder"


def test_predict_the_most_probable_classes_and_as_a_table(finished: Path, tmp_path: Path) -> None:
    x, _ = inputs()
    np.save(tmp_path / "a, b.npy", x[0])
    (row,) = json_rows(litesnn("predict", finished, tmp_path / "a, b.npy", "--json", "--top", "9"))
    top = row["top"]
    assert isinstance(top, list)
    assert top[0]["class"] == row["class"]
    shares = [each["probability"] for each in top]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1, rel=1e-5)
    plain = litesnn("predict", finished, tmp_path / "a, b.npy", "--top", "2").out
    assert plain.endswith(": " + ", ".join(f"{each['class']} ({each['probability']:.1%})" for each in top[:2]) + "\n")
    table = list(csv.reader(StringIO(litesnn("predict", finished, tmp_path / "a, b.npy", "--csv", "--top", "2").out)))
    assert table[0] == ["input", "class", "probability", "class_2", "probability_2"]
    assert table[1][:2] == [str(tmp_path / "a, b.npy"), row["class"]]
    assert float(table[1][4]) == shares[1]
    assert "leave out one" in refused(litesnn("predict", finished, tmp_path / "a, b.npy", "--csv", "--json"))


def json_rows(outcome: Outcome) -> list[dict[str, object]]:
    assert (outcome.code, outcome.err) == (0, "")
    return [json.loads(line) for line in outcome.out.splitlines()]


def bad_array(folder: Path) -> Path:
    np.save(folder / "wide.npy", np.zeros((2, 1, 9, 8), np.uint8))
    return folder / "wide.npy"


def bad_type(folder: Path) -> Path:
    np.save(folder / "floats.npy", np.zeros((2, 1, 8, 8), np.float32))
    return folder / "floats.npy"


def bad_png(folder: Path) -> Path:
    (folder / "text.png").write_text("I am a picture, honestly.\n")
    return folder / "text.png"


def no_x(folder: Path) -> Path:
    np.savez(folder / "y.npz", y=np.zeros(3))
    return folder / "y.npz"


BAD_INPUTS: list[tuple[Callable[[Path], Path], str]] = [
    (bad_array, "wide.npy: has shape [2, 1, 9, 8]; expected [N, 1, 8, 8]"),
    (bad_type, "floats.npy: holds values of type float32"),
    (bad_png, "text.png"),
    (no_x, "y.npz: has no array x"),
    (lambda folder: folder / "missing.png", "missing.png: no such file or folder"),
    (lambda folder: folder, "is a folder without a file for this network; expected ."),
]


@pytest.mark.parametrize(("make", "said"), BAD_INPUTS)
def test_predict_refuses(finished: Path, tmp_path: Path, make: Callable[[Path], Path], said: str) -> None:
    assert said in refused(litesnn("predict", finished / "model.safetensors", make(tmp_path)))


def test_predict_without_a_model(finished: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", inputs()[0])
    for model in (tmp_path / "missing.safetensors", finished / "network.safetensors", tmp_path):
        assert model.name in refused(litesnn("predict", model, tmp_path / "x.npy"))


def test_recipes() -> None:
    listed = litesnn("recipes")
    assert listed.code == 0
    assert shipped_recipes()
    assert [line.split()[0] for line in listed.out.splitlines()] == shipped_recipes()
    assert all(len(line.split()) > 5 for line in listed.out.splitlines())
    for name in shipped_recipes():
        printed = litesnn("recipes", name, columns=80)
        assert printed.code == 0
        lines = printed.out.splitlines()
        assert max(map(len, lines)) <= 80
        assert "search.epochs" in printed.out
        assert all(before.startswith("# ") for before, line in pairwise(lines) if re.match(r"\w+\.\w+ = ", line))
    assert "no recipe 'nonsense'" in refused(litesnn("recipes", "nonsense"))


def test_lists_fit_80_columns(finished: Path) -> None:
    every: list[list[str | Path]] = [["recipes"], ["list", finished.parent], ["info", finished]]
    every += [[name, "-h"] for name in COMMANDS]
    for words in every:
        outcome = litesnn(*words, columns=80)
        assert outcome.code == 0, outcome
        assert max(map(len, outcome.out.splitlines())) <= 80, words
        assert "<bool>" not in outcome.out


def test_list_has_a_finished_run(finished: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    lines = litesnn("list", finished.parent).out.splitlines()
    assert any("accuracy" in line for line in lines)
    assert lines[-1].split()[:3] == ["run", "blobs.npz", f"{metrics['test_accuracy']:.1%}"]


def test_info_of_an_unfinished_run(copy: Path) -> None:
    for name in ("network.safetensors", "metrics.json", "model.safetensors", "report.html"):
        (copy / name).unlink()
    outcome = litesnn("info", copy)
    assert outcome.code == 0
    assert outcome.out.splitlines()[1:] == [
        "done: search, derive",
        "next: train",
        f"go on with: litesnn design --run {copy}",
    ]


def test_a_run_takes_over_what_a_change_does_not_touch(finished: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    words: list[str | Path] = ["design", "--from", finished, "--set", "train.epochs=2", "--run", new, "--device", "cpu"]
    outcome = litesnn(*words)
    assert outcome.code == 0, outcome.err
    assert f"taken over from {finished}: search, derive (train.epochs was 12, now 2)\n" in outcome.out
    assert "search: epoch" not in outcome.out
    assert "train: epoch 2 of 2, validation accuracy" in outcome.out
    for name in ("search.safetensors", "search.jsonl", "genotype.json"):
        assert (new / name).read_bytes() == (finished / name).read_bytes()
    assert RunFolder(new).recipe() == RunFolder(finished).recipe().changed({"train.epochs": 2})
    assert "leave out one" in refused(litesnn(*words, "--dry-run"))


def test_python_takes_over_too(finished: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    found = package.design(from_run=finished, changes={"train.epochs": 2}, run=new, device="cpu")
    assert found.path == new
    assert (new / "genotype.json").read_bytes() == (finished / "genotype.json").read_bytes()
    assert RunFolder(new).recipe() == RunFolder(finished).recipe().changed({"train.epochs": 2})
    with pytest.raises(
        package.InputError, match="--from takes the recipe of a run, and --recipe or --model name another"
    ):
        package.design(from_run=finished, recipe="digits", run=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_other_data_are_not_taken_over(copy: Path, tmp_path: Path) -> None:
    x, y = inputs(rows=147)
    other = npz(tmp_path / "other.npz", x, y)
    text = (copy / "recipe.toml").read_text()
    lines = [f'source = "{other}"' if line.startswith("source") else line for line in text.splitlines()]
    (copy / "recipe.toml").write_text("\n".join(lines))
    new = tmp_path / "new"
    words: list[str | Path] = ["--from", copy, "--set", "data.test_limit=20", "--run", new, "--device", "cpu"]
    assert "other" in refused(litesnn("design", *words))
    assert {path.name for path in new.iterdir()} == {"recipe.toml", ".lock"}


def test_the_metrics_say_how_the_run_is_made_again(finished: Path) -> None:
    command = json.loads((finished / "metrics.json").read_text())["command"]
    assert command == "litesnn design --recipe recipe.toml --run AGAIN --device cpu --threads 1"


def test_quiet_does_not_silence_the_estimate_of_a_dry_run(problem: Problem, tmp_path: Path) -> None:
    outcome = litesnn("design", *problem.options(tmp_path / "run"), "--dry-run")
    assert (outcome.code, outcome.err) == (0, "")
    (line,) = outcome.out.splitlines()
    assert line.startswith("estimate   about ")


def test_version() -> None:
    assert litesnn("--version") == Outcome(0, f"{package.__version__}\n", "")


def test_help_lists_the_commands() -> None:
    outcome = litesnn("--help")
    assert outcome.code == 0
    for command in (*COMMANDS, "recipes"):
        assert f" {command} " in outcome.out
        page = litesnn(command, "--help")
        assert page.code == 0
        assert "Usage" in page.out


@pytest.mark.parametrize("target", ["nir", "onnx"])
def test_export_writes_one_file(finished: Path, tmp_path: Path, target: str) -> None:
    packed = finished / "model.safetensors"
    outcomes = []
    for source in (finished, packed):
        path = tmp_path / f"from {source.name}.{target}"
        outcomes.append(litesnn("export", target, source, "-o", path))
        size = f"{path.stat().st_size:,} B (the packed model has {packed.stat().st_size:,} B)"
        assert (outcomes[-1].code, outcomes[-1].out) == (0, f"{path}: {size}\n")
    first, second = sorted(tmp_path.iterdir())
    assert first.read_bytes() == second.read_bytes()
    failed = litesnn("export", target, finished, "-o", tmp_path)
    assert failed.code == 2
    assert failed.err.startswith(f"litesnn: error: {tmp_path}: cannot be written")


@pytest.mark.parametrize("target", ["nir", "onnx"])  # the names of the packages, too
def test_export_says_what_to_install(
    finished: Path, tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, target, None)
    failed = litesnn("export", target, finished, "-o", tmp_path / "model")
    assert failed.code == 2
    assert failed.err.endswith(f"the package '{target}', which is not installed: pip install 'litesnn[{target}]'\n")
