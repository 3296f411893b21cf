"""The meter in a training that nobody edited: with a fake of PyTorch (tests/control/fake_torch), and without any."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hpcjobs.jobs.render import METER_FILES

ROOT = Path(__file__).parent.parent.parent
INJECT = ROOT / "hpcjobs" / "inject"
FAKE = Path(__file__).parent / "fake_torch"
WARNING = "hpcjobs: warning: the meter is off: "
# Warm-up of 2 steps, windows of 5.
MEASURE = {"warmup": 2, "window_steps": 5}

TRAINING = """\
import torch, sys
from torch.utils.data import DataLoader
from torch.nn.parallel import DistributedDataParallel
model = DistributedDataParallel(torch.nn.Module())
optimizer = torch.optim.SGD(model.parameters())
data, held_out = list(range(32 * 20)), list(range(32 * 3))
seen = 0
for epoch in range(2):
    for batch in DataLoader(data, 32):
        seen += len(batch)
        optimizer.step()
    model.eval()
    with torch.no_grad():
        for batch in DataLoader(held_out, 32):
            pass
    model.train()
    torch.save(seen, "checkpoint")
print(seen, "samples,", optimizer.steps, "steps")
"""
# Before some steps.
EVALUATING = (
    "        if optimizer.steps % 10 == 3:\n            for batch in DataLoader(held_out, 32):\n                pass\n"
)
PRINTED = "1280 samples, 40 steps\n"


def python(folder: Path, program: str, *paths: Path, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a program in the attempt folder, with inject/ before the other paths on PYTHONPATH."""
    (folder / "program.py").write_text(program)
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("HPCJOBS_", "SLURM_", "OMPI_", "RANK"))
    }
    kept |= {"HPCJOBS_METRICS": str(folder), "HPCJOBS_MEASURE": json.dumps(MEASURE)}
    kept["PYTHONPATH"] = os.pathsep.join(map(str, (INJECT, *paths)))
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=folder, env={**kept, **env}, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    return done


def lines(folder: Path, key: str) -> list[dict[str, Any]]:
    found = [json.loads(line.partition(" ")[2]) for line in (folder / "train.log").read_text().splitlines()]
    return [line for line in found if line["key"] == key]


# --- what a script does ----------------------------------------------------------------------------------------------


def test_a_training_that_knows_nothing_of_it_is_timed(tmp_path: Path) -> None:
    done = python(tmp_path, TRAINING, FAKE)
    assert (done.stdout, done.stderr) == (PRINTED, "")
    (run, *_) = reversed(lines(tmp_path, "hpcjobs_run"))
    told = {key: run["value"][key] for key in ("meter", "by", "local_batch", "unit", "optimizers", "accumulation")}
    assert told == {
        **{"meter": "auto", "by": "torch", "local_batch": 32, "unit": "samples"},
        **{"optimizers": 1, "accumulation": 1},
    }
    # The first step of each epoch starts its loader: it opens a window. Evaluation and checkpoint lie in none.
    windows = [line["metadata"] for line in lines(tmp_path, "tracked_stats")]
    assert [(w["epoch_num"], w["step"], w["steps"]) for w in windows] == [
        *((1, 2, 1), (1, 7, 5), (1, 12, 5), (1, 17, 5), (1, 20, 3)),
        *((2, 26, 5), (2, 31, 5), (2, 36, 5), (2, 40, 4)),
    ]
    assert lines(tmp_path, "run_stop")[0]["metadata"]["status"] == "success"


def test_accumulation_and_several_optimizers_count_once(tmp_path: Path) -> None:
    program = TRAINING.replace("optimizer = ", "other = torch.optim.SGD([object()]); optimizer = ").replace(
        "        optimizer.step()\n",
        "        if seen % 64 == 0:\n            optimizer.step()\n            other.step()\n",
    )
    assert python(tmp_path, program, FAKE).stdout == "1280 samples, 20 steps\n"
    run = lines(tmp_path, "hpcjobs_run")[-1]["value"]
    assert (run["local_batch"], run["accumulation"], run["optimizers"]) == (64, 2, 2)
    assert json.loads((tmp_path / "meter-r000.json").read_text())["steps"] == 20


def test_an_evaluation_that_does_not_forbid_gradients_is_none_of_the_training(tmp_path: Path) -> None:
    program = TRAINING.replace("    with torch.no_grad():\n", "    if True:\n")
    assert python(tmp_path, program, FAKE).stdout == PRINTED
    marks = ("epoch_start", "epoch_stop", "eval_start", "eval_stop")
    assert [line["key"] for key in marks for line in lines(tmp_path, key)] == [key for key in marks for _ in range(2)]
    assert sum(line["metadata"]["steps"] for line in lines(tmp_path, "tracked_stats")) == 38
    assert "local_batch_varies" not in lines(tmp_path, "hpcjobs_run")[-1]["value"]


def test_a_benchmark_goes_on_through_such_evaluations(tmp_path: Path) -> None:
    """In (b) and (c) the training gets a batch that lies there; an evaluation must not, or it would never end."""
    program = TRAINING.replace("    with torch.no_grad():\n", "    if True:\n").replace("range(2)", "range(50)")
    program = program.replace("        optimizer.step()\n", EVALUATING + "        optimizer.step()\n")
    measure = {"mode": "benchmark", "warmup": 2, "max_steps": 20, "control_passes": 6, "control_steps": 3}
    done = python(tmp_path, program, FAKE, HPCJOBS_MEASURE=json.dumps(measure))
    assert (done.stdout, done.stderr) == ("", "")  # it ends when all is measured
    assert lines(tmp_path, "hpcjobs_control")


def test_batches_of_its_own_are_timed_without_what_only_a_loader_tells(tmp_path: Path) -> None:
    program = """\
import torch
model = torch.nn.Module()
optimizer = torch.optim.SGD(model.parameters())
for step in range(30):
    if step == 20:
        model.eval()
        torch.save(step, "checkpoint")
        model.train()
    optimizer.step()
"""
    python(tmp_path, program, FAKE)
    stats = lines(tmp_path, "tracked_stats")
    assert {line["value"]["input_wait_ms"] for line in stats} == {None}
    assert {line["value"]["throughput"] for line in stats} == {None}
    run = lines(tmp_path, "hpcjobs_run")[-1]["value"]
    # How many batches a step accumulates was not seen: nanoGPT's draws forty, and says so in its own log.
    assert (run["local_batch"], run["accumulation"]) == (None, None)
    whole = json.loads((tmp_path / "meter-r000.json").read_text())["steps"]
    assert whole == 30
    # Only after the third is it clear that no loader will come. That with the pause is not timed, either.
    assert sum(line["metadata"]["steps"] for line in stats) == whole - 3 - 1

    python(tmp_path, program, FAKE, HPCJOBS_LOCAL_BATCH="16")
    assert lines(tmp_path, "hpcjobs_run")[-1]["value"]["local_batch"] == 16
    assert all(line["value"]["throughput"] > 0 for line in lines(tmp_path, "tracked_stats"))


def test_workers_and_other_threads_are_no_training(tmp_path: Path) -> None:
    program = TRAINING.replace(
        "seen = 0\n",
        """\
import os, threading
def others():
    optimizer.step()
    list(DataLoader(list(range(320)), 32))
seen, steps = 0, optimizer.steps
if os.fork() == 0:
    others()
    os._exit(0)
os.wait()
thread = threading.Thread(target=others)
thread.start()
thread.join()
optimizer.steps = 0
""",
    )
    assert python(tmp_path, program, FAKE).stdout == PRINTED
    assert json.loads((tmp_path / "meter-r000.json").read_text())["steps"] == 40


# --- it never breaks a training --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "broken",
    [
        "loader-class",
        "loader-fields",
        "loader-slots",
        "hook",
        "hook-raises",
        "ddp-init",
        "optimizer-slots",
        "hook-signature",
        "parameters",
        "grad",
    ],
)
def test_a_pytorch_that_surprises_turns_it_off_in_one_line(broken: str, tmp_path: Path) -> None:
    program = "import torch\nweights = [object(), object()]\n" + TRAINING.replace("model.parameters()", "weights")
    done = python(tmp_path, program, FAKE, FAKE_TORCH=broken)
    assert done.stdout == PRINTED
    (line,) = done.stderr.splitlines()
    assert line.startswith(WARNING)


@pytest.mark.parametrize("missing", ["meter_driver.py", "meter_torch.py", "rank_end.py", "meter.py"])
def test_files_that_are_missing_or_damaged_turn_it_off_in_one_line(missing: str, tmp_path: Path) -> None:
    scripts = tmp_path / "python"
    (scripts / "inject").mkdir(parents=True)
    for path in METER_FILES:
        (scripts / path).write_bytes((ROOT / "hpcjobs" / path).read_bytes())
    damaged = next(scripts.rglob(missing))
    damaged.write_text("def half_a_")
    for text in ("damaged", "missing"):
        env = {"PYTHONPATH": os.pathsep.join(map(str, (scripts / "inject", FAKE)))}
        done = python(tmp_path, TRAINING, **env)
        assert done.stdout == PRINTED, text
        (line,) = done.stderr.splitlines()
        assert line.startswith(WARNING)
        damaged.unlink(missing_ok=True)


def test_an_import_of_pytorch_that_fails_fails_as_ever(tmp_path: Path) -> None:
    broken = tmp_path / "broken" / "torch" / "optim"
    broken.mkdir(parents=True)
    (broken / "__init__.py").touch()
    (broken.parent / "__init__.py").touch()
    (broken / "optimizer.py").write_text("raise ImportError('libcudart.so.12: cannot open shared object file')")
    program = """\
for attempt in range(2):
    try:
        import torch.optim.optimizer
    except ImportError as error:
        print(error)
"""
    done = python(tmp_path, program, broken.parent.parent)
    assert done.stdout == "libcudart.so.12: cannot open shared object file\n" * 2
    assert done.stderr == ""


def test_the_module_keeps_its_loader_and_its_source(tmp_path: Path) -> None:
    program = """\
import importlib, inspect, torch
from torch.optim import optimizer
print("_hooks = []" in inspect.getsource(optimizer), type(optimizer.__loader__).__name__)
print(inspect.signature(torch.utils.data.DataLoader.__iter__), torch.save.__module__)
print(importlib.reload(optimizer).__name__)
"""
    done = python(tmp_path, program, FAKE)
    assert done.stdout == "True SourceFileLoader\n(self) torch.serialization\ntorch.optim.optimizer\n"
    assert done.stderr == ""


# --- Python's start --------------------------------------------------------------------------------------------------


def customised(folder: Path, text: str, name: str = "sitecustomize") -> Path:
    """A folder for PYTHONPATH with a sitecustomize of somebody else."""
    folder.mkdir()
    (folder / f"{name}.py").write_text(text)
    return folder


def test_the_sitecustomize_that_it_hides_is_run_as_python_would(tmp_path: Path) -> None:
    theirs = customised(tmp_path / "theirs", "import sys; sys.theirs = __name__, __file__")
    program = "import sys, sitecustomize; print(*sys.theirs, sitecustomize.__file__)"
    file = theirs / "sitecustomize.py"
    assert python(tmp_path, program, theirs, FAKE).stdout == f"sitecustomize {file} {file}\n"
    assert python(tmp_path, TRAINING, theirs, FAKE).stdout == PRINTED
    assert lines(tmp_path, "run_stop")


def test_an_error_in_it_is_reported_as_python_does(tmp_path: Path) -> None:
    theirs = customised(tmp_path / "theirs", "raise KeyError('theirs')")
    with_ours = python(tmp_path, TRAINING, theirs, FAKE)
    without = python(tmp_path, TRAINING, PYTHONPATH=os.pathsep.join(map(str, (theirs, FAKE))))
    assert (with_ours.stdout, with_ours.stderr) == (without.stdout, without.stderr)
    assert "KeyError: 'theirs'" in with_ours.stderr


def test_usercustomize_is_run_too(tmp_path: Path) -> None:
    theirs = customised(tmp_path / "theirs", "import sys; sys.theirs = 1", "usercustomize")
    # A virtual environment has no user site: ask Python's site module itself.
    program = "import site, sys; site.execusercustomize(); print(sys.theirs)"
    assert python(tmp_path, program, theirs).stdout == "1\n"


def test_without_pytorch_nothing_of_it_is_loaded(tmp_path: Path) -> None:
    program = "import sys; print([name for name in sys.modules if name.startswith('_hpcjobs_') or name == 'meter'])"
    assert python(tmp_path, program).stdout == "[]\n"


def test_outside_of_a_run_nothing_watches(tmp_path: Path) -> None:
    program = "import sys; print([type(finder).__name__ for finder in sys.meta_path].count('_Watcher'))"
    assert python(tmp_path, program).stdout == "1\n"
    assert python(tmp_path, program, HPCJOBS_METRICS="").stdout == "0\n"


def test_a_module_of_the_user_called_meter_is_the_users(tmp_path: Path) -> None:
    theirs = customised(tmp_path / "theirs", "READING = 7", "meter")
    program = TRAINING + "import meter\nprint(meter.READING)\n"
    assert python(tmp_path, program, theirs, FAKE).stdout == f"{PRINTED}7\n"
    assert lines(tmp_path, "run_stop")


@pytest.mark.parametrize("name", ["sitecustomize", "meter_driver", "meter_torch", "rank_end"])
def test_python_3_8_reads_it(name: str) -> None:
    text = (INJECT / f"{name}.py").read_text()
    tree = ast.parse(text, feature_version=(3, 8))
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else alias.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
        if not isinstance(node, ast.ImportFrom) or node.module
    }
    assert imported <= sys.stdlib_module_names


# --- how a rank ends -------------------------------------------------------------------------------------------------

FAILING = "import torch\nclass Bad(RuntimeError): pass\n{}\n"


def abort(folder: Path, rank: int) -> dict[str, Any] | None:
    path = folder / f"abort-r{rank:03d}.json"
    found: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return found


def test_an_exception_leaves_a_record_of_its_rank(tmp_path: Path) -> None:
    done = python(tmp_path, FAILING.format("raise Bad('the image\\n  of row 7 is bad')"), FAKE, RANK="3", code=1)
    assert "Bad: the image" in done.stderr
    found = abort(tmp_path, 3)
    assert found is not None
    assert (found["code"], found["message"], found["rank"]) == ("unexpected", "Bad: the image of row 7 is bad", 3)
    assert {*found} == {"code", "message", "nodes", "rank", "host", "time"}


@pytest.mark.parametrize(
    ("statement", "code"),
    [("raise SystemExit(3)", 3), ("raise type('ChildFailedError', (Exception,), {})('rank 1')", 1)],
)
def test_an_end_that_is_no_exception_of_a_rank_leaves_none(statement: str, code: int, tmp_path: Path) -> None:
    python(tmp_path, FAILING.format(statement), FAKE, RANK="3", code=code)
    assert abort(tmp_path, 3) is None


def test_a_process_that_is_no_rank_leaves_none(tmp_path: Path) -> None:
    python(tmp_path, FAILING.format("raise Bad('as torchrun itself')"), FAKE, code=1)
    assert not list(tmp_path.glob("abort-*"))


def test_a_program_that_a_rank_starts_leaves_none(tmp_path: Path) -> None:
    child = "import torch; raise ValueError('in a child')"
    program = f"import torch, subprocess, sys\nprint(subprocess.run([sys.executable, '-c', {child!r}]).returncode)\n"
    done = python(tmp_path, program, FAKE, RANK="3")
    assert done.stdout == "1\n"
    assert "ValueError: in a child" in done.stderr
    assert abort(tmp_path, 3) is None


def test_of_a_rank_that_torchrun_starts_again_only_the_last_start_counts(tmp_path: Path) -> None:
    python(tmp_path, FAILING.format("raise Bad('once')"), FAKE, RANK="0", code=1)
    python(tmp_path, TRAINING, FAKE, RANK="0", WORLD_SIZE="1", TORCHELASTIC_RESTART_COUNT="1")
    assert abort(tmp_path, 0) is None


def test_a_hook_of_the_user_is_still_called(tmp_path: Path) -> None:
    program = f"import sys\nsys.excepthook = lambda *about: print('theirs', about[1])\n{FAILING.format('raise Bad(1)')}"
    assert python(tmp_path, program, FAKE, RANK="0", code=1).stdout == "theirs 1\n"
    assert abort(tmp_path, 0) is not None


def test_what_is_watched_is_what_is_patched() -> None:
    def literals(name: str, variable: str) -> set[str]:
        (value,) = (
            node.value
            for node in ast.parse((INJECT / name).read_text()).body
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and ast.unparse(node).startswith(variable)
        )
        keys = value.keys if isinstance(value, ast.Dict) else list(ast.walk(value))
        return {key.value for key in keys if isinstance(key, ast.Constant)}

    assert literals("meter_torch.py", "PATCHES") == literals("sitecustomize.py", "_WATCHED")
