"""Parsing the output of Slurm's commands: lines of Slurm 22.05.8, and lines that sites add."""

from __future__ import annotations

import pytest

from hpcjobs.base.errors import SchedulerUnreachable
from hpcjobs.base.hostlist import expand_hosts, expand_indices, fold_indices
from hpcjobs.base.records import JobState, RunState
from hpcjobs.base.times import seconds
from hpcjobs.schedulers.slurm import limits, parse


@pytest.mark.parametrize(
    ("printed", "job"),
    [
        ("123\n", "123"),
        ("123;c1\n", "123"),
        ("Welcome to Site!\nquota: 5%\n123;big.cluster\n", "123"),
        ("77\nbye\n", "77"),
    ],
)
def test_the_job_id_is_found_in_what_sbatch_prints(printed: str, job: str) -> None:
    assert parse.job_id(printed) == job


@pytest.mark.parametrize("printed", ["", "Submitted batch job 12\n", "error 12 happened\n"])
def test_output_without_a_job_id_is_not_a_refusal_and_is_quoted(printed: str) -> None:
    with pytest.raises(SchedulerUnreachable, match="printed no job id"):
        parse.job_id(printed)


def test_sacct_rows() -> None:
    text = (
        "6_0|COMPLETED|0:0|c4140-1|2026-11-23T08:40:00|2026-11-23T08:41:00|2026-11-23T08:30:00|hpcjobs-x|a|b\n"
        "6_1|FAILED|15:0|c4140-[1-2]|2026-11-23T08:40:00|2026-11-23T08:40:30|2026-11-23T08:30:00|hpcjobs-x|a|b\n"
        "7_0|CANCELLED by 1000|0:0|None assigned|None|2026-11-23T08:40:30|2026-11-23T08:30:00|hpcjobs-x|a|b\n"
        "8_0|TIMEOUT|0:0|c4140-3|2026-11-23T08:40:00|2026-11-23T08:41:21|2026-11-23T08:30:00|hpcjobs-x|a|b\n"
        "9_0|FAILED|0:9|c4140-3|2026-11-23T08:40:00|Unknown|2026-11-23T08:30:00|hpcjobs-x|a|b\n"
        "10_[3,5-6%2]|CANCELLED by 0|0:0|None assigned|Unknown|Unknown|2026-11-23T08:30:00|hpcjobs-x|a|b\n"
        "6|COMPLETED|0:0|c4140-1|2026-11-23T08:40:00|2026-11-23T08:41:00|2026-11-23T08:30:00|hpcjobs-x|a|b\n"
        "11_0|MARTIAN|0:0|c4140-1|Unknown|Unknown|2026-11-23T08:30:00|hpcjobs-x|a|b\n"
    )
    rows = parse.sacct(text)
    assert rows["6_0"].state is RunState.DONE
    assert (rows["6_0"].label, rows["6_0"].start - rows["6_0"].submit) == ("hpcjobs-x|a|b", 600)
    assert rows["6_0"].end - rows["6_0"].start == 60
    assert (rows["6_1"].state, rows["6_1"].exit_code, rows["6_1"].nodes) == (
        RunState.FAILED,
        15,
        ("c4140-1", "c4140-2"),
    )
    assert (rows["7_0"].state, rows["7_0"].reason, rows["7_0"].nodes) == (RunState.CANCELLED, "by 1000", ())
    assert (rows["8_0"].state, rows["8_0"].word) == (RunState.FAILED, "TIMEOUT")
    assert (rows["9_0"].signal, rows["9_0"].end) == (9, None)
    assert [task for task in rows if task.startswith("10_")] == ["10_3", "10_5", "10_6"]
    # The row with the bare id of the array has the state of its last task only.
    assert "6" not in rows
    assert (rows["11_0"].state, rows["11_0"].word) == (None, "MARTIAN")


def test_half_a_line_is_none() -> None:
    """sacct may be cut off and still end with 0."""
    whole = "6_0|COMPLETED|0:0|n1|2026-11-23T08:40:00|2026-11-23T08:41:00|2026-11-23T08:30:00|hpcjobs-x|a\n"
    for end in range(len(whole)):
        assert list(parse.sacct(whole + whole.replace("6_0", "6_1")[:end])) == ["6_0"]
    energy = "6_0|1||hpcjobs-x\n6_0.0|1|123456|0\n"
    assert parse.energy(energy, "x") == {"6_0": 123456}
    assert all(parse.energy(energy[:end], "x") == {} for end in range(len(energy)))


def test_squeue_rows() -> None:
    text = (
        "6_0|RUNNING|None|c4140-3|2026-11-23T08:40:00|hpcjobs-x|a|b\n"
        "6_1|PENDING|JobArrayTaskLimit||2026-11-24T00:00:00|hpcjobs-x|a|b\n"
        "6_2|COMPLETING|None|c4140-3|2026-11-23T08:40:00|hpcjobs-x|a|b\n"
        "7_2|FAILED|NonZeroExitCode|c4140-1|2026-11-23T08:40:00|hpcjobs-x|a|b\n"
        "chatter of the site\n"
    )
    rows = parse.squeue(text)
    assert rows["6_0"].state is RunState.RUNNING
    # The start of a pending job is an estimate.
    assert rows["6_1"] == JobState(RunState.PENDING, "PENDING", "JobArrayTaskLimit", label="hpcjobs-x|a|b")
    assert (rows["6_2"].state, rows["6_2"].word) == (RunState.RUNNING, "COMPLETING")
    assert rows["7_2"].state is RunState.FAILED
    assert len(rows) == 4


@pytest.mark.parametrize(
    ("words", "state"),
    [
        ("COMPLETED", RunState.DONE),
        ("FAILED TIMEOUT OUT_OF_MEMORY NODE_FAIL PREEMPTED BOOT_FAIL DEADLINE REVOKED", RunState.FAILED),
        (
            "PENDING REQUEUED REQUEUE_HOLD SPECIAL_EXIT CONFIGURING LAUNCH_FAILED RECONFIG_FAIL POWER_UP_NODE",
            RunState.PENDING,
        ),
        ("RUNNING SUSPENDED RESIZING STOPPED COMPLETING SIGNALING STAGE_OUT EXPEDITING UPDATE_DB", RunState.RUNNING),
        ("CANCELLED", RunState.CANCELLED),
    ],
)
def test_every_state_of_slurm_is_known(words: str, state: RunState) -> None:
    assert {parse.WORDS[word] for word in words.split()} == {state}


def test_limits() -> None:
    text = "MaxArraySize            = 1001\nMaxDBDMsgs              = 20008\nMaxJobCount             = 10000\n"
    assert limits.config(text) == (1001, 10000)
    assert limits.config("") == (None, None)


def test_the_version_of_slurm() -> None:
    assert limits.version("SLURM_CONF              = /etc/slurm.conf\nSLURM_VERSION           = 22.05.8\n") == (22, 5)
    assert limits.version("SLURM_VERSION           = 26.05.5-1\n") == (26, 5)
    assert limits.version("") is None


@pytest.mark.parametrize(
    ("text", "plugins"),
    [
        # The virtual cluster's Slurm 20.11, 22.05, 24.11 and 26.05.
        ("srun: MPI types are...\nsrun: pmix\nsrun: pmix_v4\nsrun: none\nsrun: pmi2\n", "pmix pmix_v4 none pmi2"),
        (
            "MPI plugin types are...\n\tpmix\n\tnone\n\tpmi2\nspecific pmix plugin versions available: pmix_v4\n",
            "pmix none pmi2 pmix_v4",
        ),
        (
            "MPI plugin types are...\n\tnone\n\tpmix\n\tpmi2\nspecific pmix plugin versions available: pmix_v5,pmix_v4\n",
            "none pmix pmi2 pmix_v5 pmix_v4",
        ),
        ("MPI plugin types are...\n\tnone\n\tcray_shasta\n\tpmi2\n", "none cray_shasta pmi2"),
        ("srun: error: --mpi: no such option\n", ""),
    ],
)
def test_the_mpi_plugins_of_slurm(text: str, plugins: str) -> None:
    assert " ".join(limits.mpi_plugins(text)) == plugins


# Partitions of the virtual cluster and of a real site.
PARTITIONS = (
    "PartitionName=v100 AllowGroups=ALL Default=YES MaxNodes=UNLIMITED MaxTime=1-00:00:00 State=UP TotalNodes=4\n"
    "PartitionName=short AllowGroups=ALL Default=NO MaxNodes=2 MaxTime=30:00 State=DRAIN TotalNodes=4\n"
    "PartitionName=open Default=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED State=UP TotalNodes=9\n"
)


def test_the_limits_of_a_partition_or_the_default_one() -> None:
    assert limits.partition(PARTITIONS, None) == ("v100", 4, 86400, True)
    assert limits.partition(PARTITIONS, "short") == ("short", 2, 1800, False)
    assert limits.partition(PARTITIONS, "open") == ("open", 9, None, True)
    assert limits.partition(PARTITIONS, "none") == ("none", None, None, True)


def test_the_smallest_limit_on_a_users_jobs_counts() -> None:
    qos = "normal|\nlong|30\ndebug|1\n"
    assert limits.submit("100||long,normal\n", qos, "long") == 30
    assert limits.submit("100|long|long,normal\n", qos, None) == 30
    assert limits.submit("||long\n", qos, None) == 30
    # Which of several QOS the job gets is not known: none of their limits counts.
    assert limits.submit("100||debug,normal\n", qos, None) == 100
    assert limits.submit("||normal\n", qos, None) is None
    assert limits.submit("", "", None) is None


@pytest.mark.parametrize(
    ("message", "limit"),
    [
        (
            "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size)",
            "MaxSubmitJobs",
        ),
        ("QOSMaxSubmitJobPerUserLimit", "MaxSubmitJobs"),
        ("Batch job submission failed: Invalid job array specification", "MaxArraySize"),
        ("Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)", "`time`"),
        ("Batch job submission failed: Invalid qos specification", "`qos`"),
        ("Batch job submission failed: Invalid account or account/partition combination specified", "`partition`"),
        ("Batch job submission failed: Martians", ""),
    ],
)
def test_a_refusal_names_its_limit(message: str, limit: str) -> None:
    assert limit in limits.which(message)
    assert bool(limit) == bool(limits.which(message))


def test_scontrol_tells_how_a_task_ended_where_there_is_no_accounting() -> None:
    text = (
        "JobId=13 ArrayJobId=12 ArrayTaskId=3 JobName=n UserId=root(0) JobState=FAILED Reason=NonZeroExitCode "
        "Dependency=(null) Requeue=1 ExitCode=15:0 StartTime=2026-11-25T14:00:00 EndTime=2026-11-25T14:00:10 "
        "NodeList=c4140-[1-2] Command=/x/JobState=COMPLETED\n"
        "JobId=12 ArrayJobId=12 ArrayTaskId=4-6%2 JobName=n JobState=PENDING Reason=Resources ExitCode=0:0 NodeList=\n"
        "JobId=20 JobName=other JobState=RUNNING\n"
    )
    rows = parse.scontrol(text)
    assert sorted(rows) == ["12_3", "12_4", "12_5", "12_6"]
    assert (rows["12_3"].word, rows["12_3"].exit_code, rows["12_3"].reason) == ("FAILED", 15, "NonZeroExitCode")
    assert rows["12_3"].nodes == ("c4140-1", "c4140-2")
    assert rows["12_3"].end - rows["12_3"].start == 10
    assert (rows["12_5"].state, rows["12_5"].nodes) == (RunState.PENDING, ())


def test_names_give_their_jobs_oldest_first() -> None:
    text = "12|hpcjobs-x-g0001-s01\n9_3|hpcjobs-x-g0001-s01\n9_4|hpcjobs-x-g0001-s01\n13|hpcjobs-x-g0002-s01\n\n"
    assert parse.names(text) == {"hpcjobs-x-g0001-s01": ["9", "12"], "hpcjobs-x-g0002-s01": ["13"]}


def test_when_a_script_would_start() -> None:
    said = "sbatch: Job 10 to start at 2026-11-25T14:25:29 using 4 processors on nodes c4140-[1-4] in partition v100"
    assert parse.would_start(said) == "2026-11-25T14:25:29"
    assert parse.would_start("something\nelse") == "something else"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5", 300), ("5:30", 330), ("1:02:03", 3723), ("1-2", 93600), ("1-2:3", 93780), ("1-2:3:4", 93784),
        ("UNLIMITED", None), ("", None), ("4h", None),
    ],
)  # fmt: skip
def test_slurms_times(text: str, expected: int | None) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("n1", "n1"), ("n[1-3]", "n1 n2 n3"), ("n[01-03,7],head", "n01 n02 n03 n7 head"), ("a1-ib,b2", "a1-ib b2"),
        ("rack[1-2]n", "rack1n rack2n"), ("", ""), ("None assigned", ""), ("n[8-11]", "n8 n9 n10 n11"),
    ],
)  # fmt: skip
def test_host_lists_are_expanded(text: str, hosts: str) -> None:
    assert " ".join(expand_hosts(text)) == hosts


def test_indices_fold_and_unfold() -> None:
    assert fold_indices([0, 1, 2, 7, 5, 6, 9]) == "0-2,5-7,9"
    assert expand_indices(fold_indices([4, 0, 1])) == [0, 1, 4]
    assert expand_indices("[3,5-6%2]") == [3, 5, 6]
