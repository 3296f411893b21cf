"""`cluster detect`: profiles from recorded and invented answers of Slurm."""

from __future__ import annotations

import dataclasses

import pytest

from hpcjobs.base.errors import InputError
from hpcjobs.config import Cluster
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
    assert "2 of 8 are down or drained now" in text
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
    assert (profile_of(MIXED, "mig").cluster.gpu_type, profile_of(MIXED, "mig").cluster.gpus_per_node) == ("1g.5gb", 7)
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
