"""What a job script gives the meter in a command's processes: its files, PYTHONPATH, and HPCJOBS_MEASURE."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpcjobs.base.errors import InputError
from hpcjobs.base.sweepdir import SweepDir
from hpcjobs.config import Cluster, Experiment, profiles, read_yaml
from hpcjobs.config.cluster import Container
from hpcjobs.engine import sweep
from hpcjobs.engine.folder import scripts, write_folder
from hpcjobs.jobs.group import PlannedRun
from hpcjobs.jobs.render import support_files
from hpcjobs.jobs.variables import OURS
from hpcjobs.plan.planning import make_plan, parameter_grid
from hpcjobs.trainers.command_line import document_of
from hpcjobs.trainers.registry import experiment_in, trainer_of
from tests.control.combinations import command_group, text_of
from tests.control.test_command_trainer import GOOD, written
from tests.control.test_rank_script import Wrapper
from tests.running import PATIENCE_S

# Writes what a process of the command finds, one file for each.
TELL = """#!/bin/bash
printf '%s\\n%s' "${PYTHONPATH-}" "$HPCJOBS_MEASURE" >"$HPCJOBS_ATTEMPT_DIR/told-${RANK-alone}"
"""
# Stands for apptainer, which no test here has: an image that sets PYTHONPATH, whatever the host has. NOT the real one.
FAKE_APPTAINER = """#!/bin/bash
while [ "$1" != /images/train.sif ]; do shift; done
shift
export PYTHONPATH=/image/python
exec "$@"
"""
IN_IMAGE = Container(kind="apptainer", image="/images/train.sif")


def program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def local(**changes: Any) -> Cluster:
    return msgspec.structs.replace(profiles.cluster("local"), launcher="fork", launcher_options=(), **changes)


def run(
    folder: Path, words: Sequence[str], *settings: str, cluster: Cluster, index: int = 0, **more: str
) -> tuple[PlannedRun, Path]:
    """Run `index` of a sweep on two GPUs in FOLDER/o, and its attempt. `more` is in the environment of the job."""
    plan = make_plan([2], parameter_grid(document_of(words), [*settings, f"workdir={folder}"]), cluster, 1)
    where = SweepDir(folder / "o")
    first = sweep.Sweep("261130120000abcd", where, plan)
    write_folder(first, scripts(first), ["hpcjobs"])
    environment = {**os.environ, "SLURM_ARRAY_TASK_ID": str(index), **more}
    if "PYTHONPATH" not in more:
        environment.pop("PYTHONPATH", None)
    script = where.script(plan.groups[0].name)
    done = subprocess.run(["bash", script, "1"], env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    planned = plan.groups[0].runs[index]
    attempt = where.run(planned.name) / "a001"
    assert done.returncode == 0, done.stderr + (attempt / "job.log").read_text()
    return planned, attempt


def told(folder: Path, *settings: str, cluster: Cluster, **more: str) -> list[tuple[str, dict[str, Any]]]:
    """(PYTHONPATH, HPCJOBS_MEASURE) of each process of a run, in the order of the ranks; FOLDER is written as `...`."""
    _, attempt = run(folder, [str(program(folder / "tell", TELL))], *settings, cluster=cluster, **more)
    texts = [path.read_text().partition("\n") for path in sorted(attempt.glob("told-*"))]
    return [(path.replace(str(folder), "..."), json.loads(measure)) for path, _, measure in texts]


FIRST, LAST = ".../o/scripts/python/inject", ".../o/scripts/python"


# --- PYTHONPATH ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "processes"), [("rank", 2), ("node", 1), ("once", 1)])
def test_the_meter_stands_around_what_the_user_has_on_pythonpath(start: str, processes: int, tmp_path: Path) -> None:
    found = told(tmp_path, f"start={start}", cluster=local(), PYTHONPATH="/my/code:/more")
    assert [path for path, _ in found] == [f"{FIRST}:/my/code:/more:{LAST}"] * processes


def test_what_the_profile_sets_stays(tmp_path: Path) -> None:
    ((path, _),) = told(tmp_path, "start=once", cluster=local(env={"PYTHONPATH": "/site/python"}))
    assert path == f"{FIRST}:/site/python:{LAST}"
    (tmp_path / "prologue").mkdir()
    cluster = local(prologue="export PYTHONPATH=/module/python")
    assert {path for path, _ in told(tmp_path / "prologue", "start=rank", cluster=cluster)} == {
        f"{FIRST}:/module/python:{LAST}"
    }


@pytest.mark.parametrize("start", ["rank", "once"])
def test_within_a_container_the_meter_stands_around_what_the_image_sets(start: str, tmp_path: Path) -> None:
    """What the job had outside is not the container's: the image would lose its own, or the meter would be lost."""
    program(tmp_path / "apptainer", FAKE_APPTAINER)
    cluster = local(container=IN_IMAGE, prologue=f"export PATH={shlex.quote(str(tmp_path))}:$PATH")
    found = told(tmp_path, f"start={start}", cluster=cluster)
    assert {path for path, _ in found} == {f"{FIRST}:/image/python:{LAST}"}


@pytest.mark.parametrize("start", ["rank", "once"])
def test_a_module_of_the_user_s_called_meter_is_not_hidden(start: str, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "meter.py").write_text("AVERAGE = 'theirs'\n")
    text = f"""#!/bin/bash
{sys.executable} -c 'import meter; print(meter.AVERAGE)' >"$HPCJOBS_ATTEMPT_DIR/said-${{RANK-alone}}"
"""
    words = [str(program(tmp_path / "tell", text))]
    run(tmp_path, words, f"start={start}", cluster=local(), PYTHONPATH=str(tmp_path / "code"))
    assert {path.read_text() for path in tmp_path.rglob("said-*")} == {"theirs\n"}


@pytest.mark.parametrize(
    ("settings", "injected"),
    [
        ((), True),
        (("measure.format=meter",), True),
        (("measure.pattern=(?P<throughput>.)",), True),
        (("measure.meter=off",), False),
        (("measure.format=none",), False),
        (("measure.format=horovod",), False),
        (("measure.format=pattern", "measure.pattern=(?P<throughput>.)"), False),
    ],
)
def test_nothing_is_injected_where_no_meter_is_asked_for(
    settings: tuple[str, ...], injected: bool, tmp_path: Path
) -> None:
    """`import meter` works all the same."""
    ((path, measure),) = told(tmp_path, "start=once", *settings, cluster=local())
    assert path == (f"{FIRST}:{LAST}" if injected else LAST)
    assert measure["meter"] == ("auto" if injected else "off")


def test_a_rank_of_torchrun_has_the_path_from_torchrun(tmp_path: Path) -> None:
    wrapper = Wrapper(tmp_path)
    ours = {"HPCJOBS_INJECT": "/m/inject:", "HPCJOBS_PYTHONPATH": "/m"}
    whole = wrapper.tells(HPCJOBS_START="rank", PYTHONPATH="/mine", **ours)["PYTHONPATH"]
    assert whole == "/m/inject:/mine:/m"
    code, printed = wrapper.run(
        "-c", "import os; print(os.environ['PYTHONPATH'])", HPCJOBS_START="python", PYTHONPATH=whole, **ours
    )
    assert (code, printed) == (0, f"{whole}\n")


@pytest.mark.parametrize("launcher", ["srun", "mpirun"])
@pytest.mark.parametrize("kind", ["none", "apptainer", "pyxis"])
@pytest.mark.parametrize("start", ["rank", "node", "once"])
def test_each_launcher_and_container_passes_the_meter_s_variables_on(launcher: str, kind: str, start: str) -> None:
    """As text: we have run neither container, and srun on the virtual cluster only."""
    if kind == "pyxis" and (launcher != "srun" or start == "once"):
        return
    image = Container() if kind == "none" else Container(kind=kind, image="/images/train.sif")  # type: ignore[arg-type]
    cluster = msgspec.structs.replace(profiles.cluster("c4140"), launcher=launcher, container=image)
    text = text_of(cluster, command_group(cluster, [f"start={start}"]))
    last = text[text.index("# The launcher runs in the background") :]
    inside = "inside=(sh -c 'export PYTHONPATH=" in text
    assert inside == (kind == "apptainer")
    assert ('"${inside[@]}" \\\n    python train.py' in text) == inside
    assert ("unset HPCJOBS_INJECT HPCJOBS_PYTHONPATH" in text) == inside
    if kind == "pyxis":
        (names,) = [word for word in last.split() if word.startswith("--container-env=")]
        assert {"HPCJOBS_MEASURE", "HPCJOBS_INJECT", "HPCJOBS_PYTHONPATH"} <= set(names.partition("=")[2].split(","))
        # The host's would take the place of the image's.
        assert "PYTHONPATH" not in names.partition("=")[2].split(",")
    elif start == "once":
        assert ("export PYTHONPATH=" in last) == (kind == "none")
    elif launcher == "mpirun":
        (loop,) = [line for line in last.splitlines() if line.startswith("for name in")]
        assert {"HPCJOBS_MEASURE", "HPCJOBS_INJECT", "HPCJOBS_PYTHONPATH", "PYTHONPATH;"} <= set(loop.split())
    else:
        assert "srun --export=ALL " in last


# --- HPCJOBS_MEASURE -----------------------------------------------------------------------------


def test_the_meter_is_told_what_the_experiment_says(tmp_path: Path) -> None:
    settings = ("mode=benchmark", "measure.unit=tokens", "measure.flops_per_unit=7.5e9", "measure.window_steps=7")
    found = told(tmp_path, *settings, "measure.parts_precision=0.05", "measure.warmup=3", cluster=local())
    assert [measure for _, measure in found] == [
        {
            "mode": "benchmark", "meter": "auto", "unit": "tokens", "warmup": 3, "window_steps": 7, "precision": 0.01,
            "max_steps": 300, "control_repeats": 1, "control_passes": 16, "control_steps": 3, "parts_precision": 0.05,
            "flops_per_unit": 7.5e9, "flops_precision": None, "run": "g0002-r01", "params": "", "sweep": "261130120000abcd", "device": "cpu",
        }
    ] * 2  # fmt: skip


ODD = """it's "so" $(touch pwned) `id` \\ é {x} %s"""


@pytest.mark.parametrize("index", [0, 1])
def test_whatever_a_parameter_holds_each_run_is_told_its_own(index: int, tmp_path: Path) -> None:
    settings = (f"params.text={ODD},plain", 'measure.unit=it\'s "a" $HOME')
    words = [str(program(tmp_path / "tell", TELL)), "{params.text}"]
    planned, attempt = run(tmp_path, words, *settings, "start=once", cluster=local(), index=index)
    found = json.loads((attempt / "told-alone").read_text().partition("\n")[2])
    assert (found["params"], found["run"]) == (planned.variant.params, planned.name)
    assert found["unit"] == 'it\'s "a" $HOME'
    assert found["params"] == f"params.text={(ODD, 'plain')[index]}"
    assert not list(tmp_path.rglob("pwned"))


# --- files ---------------------------------------------------------------------------------------


def test_the_meter_s_files_stand_beside_the_scripts_of_a_command(tmp_path: Path) -> None:
    told(tmp_path, "start=once", cluster=local())
    place = tmp_path / "o" / "scripts" / "python"
    injected = ("sitecustomize", "meter_driver", "meter_torch", "rank_end")
    names = ("meter.py", *(f"inject/{name}.py" for name in injected))
    for name in names:
        assert (place / name).read_text() == resources.files("hpcjobs").joinpath(name).read_text("utf-8")
        assert stat.S_IMODE((place / name).stat().st_mode) == 0o644
    assert sorted(str(path.relative_to(place)) for path in place.rglob("*.py")) == sorted(names)
    # The built-in trainer has its own.
    variants = parameter_grid(profiles.read(Experiment, "chexnet"), ["data.dir=/x"])
    assert support_files(make_plan([1], variants, profiles.cluster("c4140"), 1).groups, profiles.cluster("c4140")) == {}


def test_the_variables_of_the_meter_are_among_those_that_launchers_pass_on() -> None:
    assert {"HPCJOBS_MEASURE", "HPCJOBS_INJECT", "HPCJOBS_PYTHONPATH"} <= set(OURS)


# --- keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (("measure.format=none",), "mode benchmark needs the meter, and measure.format none does without: give auto"),
        (("measure.format=horovod",), "mode benchmark needs the meter, and measure.format horovod does without"),
        (("measure.format=pattern", "measure.pattern=(?P<throughput>.)"), "measure.format pattern does without"),
        (("measure.meter=off",), "mode benchmark needs the meter, and measure.meter is off: give auto"),
    ],
)
def test_a_benchmark_needs_a_meter(settings: tuple[str, ...], says: str) -> None:
    (variant,) = parameter_grid(document_of(["train"]), ["mode=benchmark", *settings])
    with pytest.raises(InputError, match="measure") as caught:
        trainer_of(variant.experiment).check_keys([variant.experiment], None)
    assert says in str(caught.value)
    (trains,) = parameter_grid(document_of(["train"]), settings)
    trainer_of(trains.experiment).check_keys([trains.experiment], None)


def test_off_in_a_file_is_no_truth_value(tmp_path: Path) -> None:
    """YAML 1.1 reads off as false."""
    experiment = experiment_in(read_yaml(written(tmp_path, GOOD + "measure: {meter: off}\n")))
    assert experiment.measure.meter == "off"  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"e\.yaml:4: key 'measure\.meter': expected one of auto, off, got 'on'"):
        experiment_in(read_yaml(written(tmp_path, GOOD + "measure: {meter: on}\n")))


def test_a_benchmark_is_not_started_again_and_may_do_less_than_its_work() -> None:
    """Its measurement would begin anew, and it writes no checkpoint."""
    for mode, restarts in (("train", True), ("benchmark", False)):
        settings = [f"mode={mode}", "stop.signal=USR1", "workdir=/w"]
        (variant,) = parameter_grid(document_of(["train"]), settings)
        trainer = trainer_of(variant.experiment)
        assert trainer.restarts(variant.experiment) == restarts
        assert trainer.may_end_early(variant.experiment) == (not restarts)
        text = text_of(profiles.cluster("c4140"), command_group(profiles.cluster("c4140"), settings[:2]))
        assert ("HPCJOBS_STOP_SIGNAL=USR1" in text) == restarts
        assert ("#SBATCH --requeue\n" in text) == restarts


def test_the_mode_of_a_sweep_is_one() -> None:
    variants = parameter_grid(document_of(["train"]), ["mode=train,benchmark"])
    experiments = [each.experiment for each in variants]
    with pytest.raises(InputError, match="--set mode: takes one value"):
        trainer_of(experiments[0]).check_keys(experiments, None)
