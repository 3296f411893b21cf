"""`cluster detect`: profiles from recorded and invented answers of Slurm."""

from __future__ import annotations

import dataclasses

import pytest

from hpcjobs.base.errors import InputError
from hpcjobs.config import Cluster
from hpcjobs.schedulers.slurm.gres import Gpus, gpus
from hpcjobs.site.detect import Detected, profile_of
from hpcjobs.site.facts import Facts, read

# What the virtual cluster of tests/slurm answers.
CONFIG = """Configuration data as of 2026-11-25T15:37:00
AccountingStorageEnforce = none
AccountingStorageType   = accounting_storage/slurmdbd
ClusterName             = virtual
SelectTypeParameters    = CR_CORE_MEMORY
SLURM_VERSION           = 22.05.8
TaskPlugin              = task/none
"""
PARTITIONS = """PartitionName=v100 AllowAccounts=ALL AllowQos=ALL Default=YES DefaultTime=01:00:00 MaxNodes=UNLIMITED MaxTime=1-00:00:00 MaxMemPerNode=UNLIMITED State=UP
PartitionName=debug AllowAccounts=ALL AllowQos=ALL Default=NO DefaultTime=00:10:00 MaxNodes=2 MaxTime=00:30:00 MaxMemPerNode=100000 State=UP
"""
NODES = "v100|4|idle|192000|2|20|1|gpu:v100:4\ndebug|4|idle|192000|2|20|1|gpu:v100:4\n"
MPI = "MPI plugin types are...\n\tpmix\n\tnone\n\tpmi2\nspecific pmix plugin versions available: pmix_v4\n"
VIRTUAL = read(CONFIG, PARTITIONS, NODES, MPI, "", "hpc|normal\nroot|normal\n")


def changed(cluster: Cluster) -> dict[str, object]:
    """The keys that differ from their defaults."""
    plain = Cluster(name="x", gpu_request="none")
    keys = Cluster.__struct_fields__
    return {key: value for key in keys if (value := getattr(cluster, key)) != getattr(plain, key)}


def comments(found: Detected) -> list[str]:
    return [line for line in found.text.splitlines() if line.startswith("#")]


def test_a_profile_of_the_default_partition() -> None:
    found = profile_of(VIRTUAL)
    assert found.partition == "v100"
    assert changed(found.cluster) == {
        "name": "virtual",
        "description": "4 nodes, each 4 v100, 40 cores, 188 GiB",
        "nodes": 4,
        "gpus_per_node": 4,
        "gpu_request": "gres",
        "gpu_type": "v100",
        "cpus_per_gpu": 10,
        "mem_per_gpu_mib": 45600,
        "bind": "none",
        "partition": "v100",
        "time": "04:00:00",
    }
    # UNKNOWN marks what Slurm does not report. The suggested account is valid YAML.
    assert sum("UNKNOWN" in line for line in found.text.splitlines()) == 5
    assert any("account: hpc" in line and "yours that are allowed here: hpc, root" in line for line in comments(found))


def test_another_partition_has_other_limits_and_the_device_can_be_given() -> None:
    found = profile_of(VIRTUAL, "debug", "cpu").cluster
    assert (found.name, found.partition, found.time, found.nodes) == ("virtual-debug", "debug", "00:30:00", 2)
    # MaxMemPerNode limits the memory that a job may have on a node.
    assert (found.device, found.gpu_request, found.mem_per_gpu_mib) == ("cpu", "gres", 25000)


# A site with several kinds of nodes, hyper-threads, nodes that are down, and no PMIx.
MIXED = read(
    CONFIG.replace("virtual", "Big site (new)")
    .replace("task/none", "task/cgroup,task/affinity")
    .replace("CR_CORE_MEMORY", "CR_CORE")
    .replace("= none", "= associations,limits"),
    "PartitionName=cpu Default=YES MaxTime=UNLIMITED MaxNodes=UNLIMITED\n"
    "PartitionName=gpu Default=NO AllowAccounts=physics MaxTime=UNLIMITED DefaultTime=NONE MaxNodes=UNLIMITED\n"
    "PartitionName=mig Default=NO MaxTime=UNLIMITED State=DRAIN\n"
    "PartitionName=1e3 Default=NO MaxTime=UNLIMITED\n"
    "PartitionName=empty Default=NO MaxTime=UNLIMITED\n",
    "cpu|100|mix|256000|2|32|2|(null)\n"
    "gpu|6|alloc|515000|2|32|2|gpu:a100:4(S:0-1),nvme:1\n"
    "gpu|2|drain*|510000|2|24|2|gpu:a100:4(S:0-1),nvme:1\n"
    "gpu|3|idle|1000000|2|64|2|gpu:h100:8(S:0,1)\n"
    "gpu|1|down~|64000|1|8|1|(null)\n"
    "mig|1|idle+|64000+|1|8+|1|gpu:1g.5gb:7(S:0),gpu:a100:1\n"
    "1e3|2|idle|64000|2|8|1|gpu:2\n",
    "MPI plugin types are...\n\tnone\n\tpmi2\n",
    "      --container-image=[USER@]...  [pyxis] the image\n",
    "physics|high,normal\nchemistry|normal\n",
)


def test_the_profile_describes_the_most_numerous_gpu_nodes_by_the_smallest_of_them() -> None:
    found = profile_of(MIXED, "gpu")
    cluster = found.cluster
    assert (cluster.name, cluster.nodes, cluster.gpus_per_node, cluster.gpu_type) == ("Big-site-new-gpu", 8, 4, "a100")
    # The smaller nodes have 48 cores. Slurm counts hyper-threads, a rank gets cores.
    assert (cluster.cpus_per_gpu, cluster.sbatch) == (12, {"hint": "nomultithread"})
    assert (cluster.launcher, cluster.bind, cluster.mem_per_gpu_mib) == ("mpirun", "cores", None)
    text = found.text
    assert "2 of 8 are down, drained or silent now" in text
    assert "Other nodes of this partition: 3 nodes, each 8 h100, 128 cores, 977 GiB" in text
    assert "names only pmi2" in text
    # Only one of the user's two accounts may use the partition.
    assert "account: physics" in text
    assert "chemistry" not in text
    assert "container: {kind: pyxis" in text


def test_a_partition_without_gpus_computes_on_cpus_and_names_the_partitions_with_gpus() -> None:
    found = profile_of(MIXED)
    assert (found.partition, found.device) == ("cpu", "cpu")
    cluster = found.cluster
    assert (cluster.device, cluster.gpu_request, cluster.gpus_per_node, cluster.cpus_per_gpu) == ("cpu", "none", 2, 32)
    assert "Partitions with GPUs, for `cluster detect --partition`: gpu, mig, 1e3" in found.text


def test_gpu_types_are_read_as_sites_write_them() -> None:
    # NCCL does not join slices of GPUs: a whole GPU comes first, and the slices are told.
    assert (profile_of(MIXED, "mig").cluster.gpu_type, profile_of(MIXED, "mig").cluster.gpus_per_node) == ("a100", 1)
    assert "Each of these nodes also has 7 1g.5gb: a job asks for one type" in profile_of(MIXED, "mig").text
    assert "its state is DRAIN now" in profile_of(MIXED, "mig").text
    plain = profile_of(MIXED, "1e3").cluster
    assert (plain.partition, plain.gpu_type, plain.gpus_per_node) == ("1e3", None, 2)


@pytest.mark.parametrize(
    ("facts", "partition", "message"),
    [
        (MIXED, "gup", "no partition 'gup': did you mean 'gpu'?"),
        (MIXED, "empty", "partition empty has no nodes; choose another one: cpu, gpu"),
        (
            read("", "PartitionName=a\nPartitionName=b\n", ""),
            None,
            "no partition is the default one; give --partition, one of a, b",
        ),
        (read("", "", ""), None, "scontrol names no partition"),
    ],
)
def test_an_error_says_why_no_partition_can_be_chosen(facts: Facts, partition: str | None, message: str) -> None:
    with pytest.raises(InputError, match="^" + message.replace("?", r"\?")):
        profile_of(facts, partition)


def test_the_profile_is_valid_if_slurm_reports_hardly_anything() -> None:
    """No accounting, no list of MPI plugins, an older scontrol."""
    found = profile_of(
        read("AccountingStorageType = accounting_storage/none\n", "PartitionName=p\n", "p|1|idle|1000|1|1|1|(null)\n")
    )
    assert (found.cluster.name, found.cluster.launcher) == ("slurm", "mpirun")
    assert "Slurm has no accounting database here" in found.text


def test_what_is_not_configured_is_none_whatever_slurm_prints() -> None:
    """24.11 and 26.05 print (null) for a plugin that is not configured, and 22.05 none."""
    facts = read(CONFIG.replace("task/none", "(null)").replace("CR_CORE_MEMORY", "(null)"), PARTITIONS, NODES, MPI)
    text = profile_of(facts).text
    assert "TaskPlugin none binds nothing" in text
    assert "(null)" not in text


def test_memory_is_not_requested_where_slurm_does_not_allocate_it() -> None:
    assert profile_of(dataclasses.replace(VIRTUAL, config={})).cluster.mem_per_gpu_mib is None


@pytest.mark.parametrize(
    ("printed", "found"),
    [
        ("gpu:h100:8(S:0-1)", [("h100", 8)]),
        ("gpu:4", [(None, 4)]),
        ("gpu:tesla:2(S:0,1),gpu:kepler:4(S:0),nvme:1", [("kepler", 4), ("tesla", 2)]),
        ("gpu:a100:2(S:0),gpu:a100:2(S:1)", [("a100", 4)]),
        ("gpu:a100_1g.5gb:14,gpu:a100:6,gpu:a100_3g.20gb:2", [("a100", 6), ("a100_1g.5gb", 14), ("a100_3g.20gb", 2)]),
        ("gpu:nvidia_h100_nvl:1(S:0),VramPerGpu:no_consume:94G", [("nvidia_h100_nvl", 1)]),
        ("bandwidth:lustre:no_consume:4G,mps:100,gpumem:80G", []),
        ("(null)", []),
    ],
)
def test_the_gpus_of_a_node_are_read_in_every_form(printed: str, found: list[tuple[str | None, int]]) -> None:
    assert [(each.type, each.count) for each in gpus(printed)] == found


def test_gpus_that_slurm_does_not_count_are_counted_here_and_told() -> None:
    assert gpus("gpu:x:no_consume:4") == (Gpus("x", 4, consumed=False),)
    assert gpus("gpu:no_consume:2") == (Gpus(None, 2, consumed=False),)
    found = profile_of(read(CONFIG, PARTITIONS, "v100|4|idle|192000|2|20|1|gpu:x:no_consume:4\n"))
    assert (found.cluster.gpu_type, found.cluster.gpus_per_node) == ("x", 4)
    assert "gres           # no_consume: jobs share the GPUs" in found.text


# A partition of a university's cluster with Slurm 25.05; names are changed.
LAB = read(
    CONFIG,
    "PartitionName=lab-gpu AllowGroups=private_lab AllowAccounts=ALL AllowQos=ALL Default=NO QoS=N/A ReqResv=NO "
    "MaxCPUsPerNode=UNLIMITED MaxCPUsPerSocket=UNLIMITED Nodes=gpu004 RootOnly=NO State=UP TotalCPUs=64 TotalNodes=1 "
    "MaxMemPerNode=UNLIMITED TRES=cpu=62,mem=750G,node=1,billing=264,gres/gpu=1,gres/gpu:nvidia_h100_nvl=1\n",
    "lab-gpu|1|mix-|768000|2|32|1|gpu:nvidia_h100_nvl:1(S:0),VramPerGpu:no_consume:94G\n",
)


def test_a_job_is_not_given_the_cores_that_the_site_keeps() -> None:
    found = profile_of(LAB, "lab-gpu")
    assert (found.cluster.cpus_per_gpu, found.cluster.gpus_per_node) == (62, 1)
    assert "a node has 64 cores, a job gets 62: the partition's TRES cpu=62" in found.text


def test_who_may_use_the_partition_is_told() -> None:
    def told(facts: Facts) -> str:
        return "\n".join(comments(profile_of(facts, "lab-gpu")))

    assert "Only members of these groups may use the partition (AllowGroups): private_lab\n" in told(LAB)
    assert "private_lab; you are in private_lab" in told(dataclasses.replace(LAB, groups=("users", "private_lab")))
    assert "private_lab; you are in none of them here" in told(dataclasses.replace(LAB, groups=("users",)))
    limited = {"AllowGroups": "ALL", "AllowQos": "gpu,long", "DenyAccounts": "guests", "QoS": "part", "ReqResv": "YES"}
    held = {
        "ReservationName": "course",
        "PartitionName": "lab-gpu",
        "NodeCnt": "1",
        "Nodes": "gpu004",
        "Users": "(null)",
    }
    held |= {"Accounts": "teaching", "StartTime": "2026-11-25T08:00:00", "EndTime": "2026-11-25T18:00:00"}
    other = {**held, "ReservationName": "elsewhere", "PartitionName": "cpu"}
    about = {"lab-gpu": {**LAB.partitions["lab-gpu"], **limited}}
    text = told(dataclasses.replace(LAB, partitions=about, reservations=(held, other)))
    assert "AllowGroups" not in text
    assert "Only these qualities of service may use the partition (AllowQos): gpu,long" in text
    assert "These accounts may not use the partition (DenyAccounts): guests" in text
    assert "The partition's own quality of service part may limit jobs further" in text
    assert "Jobs need a reservation here" in text
    assert (
        "Reservation course holds 1 nodes (gpu004) from 2026-11-25T08:00:00 to 2026-11-25T18:00:00, for accounts "
        in text
    )
    assert "elsewhere" not in text


NODE = (
    "NodeName=n1 Arch=x86_64 CoresPerSocket=20 CPUAlloc=0 {cpus} Gres=gpu:v100:4 RealMemory=192000 "
    "Sockets=2 ThreadsPerCore={threads} {kept} Partitions=v100,debug \n"
)


@pytest.mark.parametrize(
    ("cpus", "kept", "threads", "cores", "why"),
    [
        # Slurm 22.05 says what is left for jobs, in CPUs; before, only what is kept.
        ("CPUEfctv=72 CPUTot=80", "CoreSpecCount=4 CPUSpecList=0-7", 2, 36, "CPUSpecList"),
        ("CPUEfctv=36 CPUTot=40", "CoreSpecCount=4", 1, 36, "CoreSpecCount"),
        ("CPUTot=80", "CPUSpecList=0-1,40-41", 2, 38, "CPUSpecList"),
        ("CPUTot=80", "CoreSpecCount=2", 2, 38, "CoreSpecCount"),
        # A site that has Slurm count cores though they have hyper-threads.
        ("CPUEfctv=36 CPUTot=40", "CoreSpecCount=4", 2, 36, "CoreSpecCount"),
        ("CPUEfctv=80 CPUTot=80", "", 2, 40, ""),
    ],
)
def test_cores_that_a_node_keeps_for_the_system_are_left_out(
    cpus: str, kept: str, threads: int, cores: int, why: str
) -> None:
    node = NODE.format(cpus=cpus, kept=kept, threads=threads)
    nodes = NODES.replace("|20|1|", f"|20|{threads}|")
    found = profile_of(read(CONFIG, PARTITIONS, nodes, MPI, each_node=node))
    assert found.cluster.cpus_per_gpu == cores // 4
    assert (f"a node has 40 cores, a job gets {cores}: {why} of its nodes" in found.text) == bool(why)


def test_limits_of_the_partition_and_memory_that_a_node_keeps() -> None:
    capped = PARTITIONS.replace("State=UP\n", "MaxCPUsPerNode=32 State=UP\n")
    found = profile_of(read(CONFIG, capped, NODES, MPI))
    assert found.cluster.cpus_per_gpu == 8
    assert "a job gets 32: the partition's MaxCPUsPerNode=32" in found.text
    node = NODE.format(cpus="CPUTot=40", kept="MemSpecLimit=32000", threads=1)
    found = profile_of(read(CONFIG, PARTITIONS, NODES, MPI, each_node=node))
    assert found.cluster.mem_per_gpu_mib == 40000
    assert "160000 MiB: MemSpecLimit of its nodes; a node has 192000 MiB" in found.text


def test_the_sum_of_unequal_nodes_says_nothing_of_one_of_them() -> None:
    nodes = "p|1|idle|64000|1|8|1|gpu:2\np|1|idle|64000|1|64|1|gpu:2\n"
    found = profile_of(read(CONFIG, "PartitionName=p Default=YES TotalCPUs=72 TRES=cpu=70,mem=125G,node=2\n", nodes))
    assert found.cluster.cpus_per_gpu == 4


ONE = "PartitionName=p Default=YES State=UP TotalCPUs=40 "


def test_memory_that_a_site_gives_by_the_cpu_is_not_exceeded() -> None:
    found = profile_of(read(CONFIG, ONE + "MaxMemPerCPU=4000\n", "p|2|idle|192000|2|20|1|gpu:a100:4\n"))
    assert found.cluster.mem_per_gpu_mib == 40000
    assert "160000 MiB: the partition's MaxMemPerCPU=4000; a node has 192000 MiB" in found.text
    site = read(CONFIG + "MaxMemPerCPU            = 1000\n", ONE + "\n", "p|2|idle|192000|2|20|2|gpu:a100:4\n")
    assert profile_of(site).cluster.mem_per_gpu_mib == 10000  # hyper-threads or not: one CPU for each core is sure


def test_a_long_name_of_a_gpu_is_not_run_together_with_its_comment() -> None:
    gres = "gpu:nvidia_h100_80gb_hbm3_1g.10gb:7(S:0),gpu:nvidia_h100_80gb_hbm3_2g.20gb:3(S:0)"
    found = profile_of(read(CONFIG, ONE + "\n", f"p|1|idle|192000|2|20|1|{gres}\n"))
    assert (found.cluster.gpu_type, found.cluster.gpus_per_node) == ("nvidia_h100_80gb_hbm3_1g.10gb", 7)
    assert "gpu_type: nvidia_h100_80gb_hbm3_1g.10gb # slices of GPUs (MIG)" in found.text


def test_nodes_that_do_not_respond_and_a_least_number_of_nodes_are_told() -> None:
    nodes = "p|2|idle*|192000|2|20|1|gpu:a100:4\np|6|mix-|192000|2|20|1|gpu:a100:4\n"
    text = profile_of(read(CONFIG, ONE + "MinNodes=2\n", nodes)).text
    assert "2 of 8 are down, drained or silent now" in text
    assert "A job has at least 2 nodes here (MinNodes)" in text


def test_no_more_gpus_are_asked_for_than_a_job_gets_cores() -> None:
    found = profile_of(read(CONFIG, ONE + "MaxCPUsPerNode=4\n", "p|1|idle|192000|2|20|1|gpu:a100:8\n"))
    assert (found.cluster.gpus_per_node, found.cluster.cpus_per_gpu) == (4, 1)
    assert "of 8: a rank needs a core, and a job gets 4" in found.text


def test_an_account_that_the_partition_denies_is_not_proposed() -> None:
    found = profile_of(read(CONFIG, ONE + "DenyAccounts=hpc\n", "p|1|idle|1000|1|8|1|(null)\n", assoc="hpc|n\nbio|n\n"))
    assert "yours that are allowed here: bio;" in found.text
