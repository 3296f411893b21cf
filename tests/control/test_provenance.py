"""The record of where a sweep comes from has no passwords, tokens and keys."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from hpcjobs.base.provenance import code_state, provenance, redacted

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"https://me:{SECRET}@git.site.org/x.git", "https://me:***@git.site.org/x.git"),
        (f"https://me:p@ss{SECRET}@git.site.org/x.git", "https://me:***@git.site.org/x.git"),
        (f"https://{SECRET}@github.com/x.git", "https://***@github.com/x.git"),
        (f"http_proxy=http://me:{SECRET}@proxy:3128", "http_proxy=http://me:***@proxy:3128"),
        (f"https://s3/data?X-Amz-Signature={SECRET}&part=3", "https://s3/data?X-Amz-Signature=***&part=3"),
        (f"https://host/x?token={SECRET}", "https://host/x?token=***"),
        (f"export WANDB_API_KEY={SECRET}\nexport A=1", "export WANDB_API_KEY=***\nexport A=1"),
        (f"export HF_TOKEN='{SECRET} and more'; run", "export HF_TOKEN=***; run"),
        (f"export HF_TOKEN={SECRET}\\ {SECRET}; run", "export HF_TOKEN=***; run"),
        (f"--export=ALL,TOKEN={SECRET},B=2", "--export=ALL,TOKEN=***,B=2"),
        (f"curl -H 'Authorization: Bearer {SECRET}' https://x", "curl -H 'Authorization: Bearer ***' https://x"),
        (f"mysql --password {SECRET} --host db", "mysql --password *** --host db"),
        (f"token='{SECRET}", "token=***"),
    ],
)
def test_a_secret_in_a_text_is_hidden_and_nothing_else(text: str, kept: str) -> None:
    assert redacted(text) == kept


@pytest.mark.parametrize(
    "text",
    [
        *("monkey=1", "keyboard=1", "batch.passes=2", "max_tokens=3", "train.tokenizer=x", "author=me", "PWD=/home/me"),
        *("NCCL_IB_HCA=mlx5_0:1,mlx5_1:1", "NCCL_SOCKET_IFNAME=^lo", "UCX_IB_PKEY=0x8001", "OMPI_MCA_btl=tcp,self"),
        *("ssh://git@git.site.org/x.git", "git@git.site.org:x.git", "https://host:8443/x?page=2", "user@host", "a:b@c"),
        *(
            "lr.base=0.1,0.2",
            "/data/keys/auth",
            "the key to this: patience",
            "--exclude n1,n2",
            "--key-file",
            "SSH_KEY_FILE=/home/me/.ssh/id",
        ),
    ],
)
def test_a_text_that_only_resembles_a_secret_stays(text: str) -> None:
    assert redacted(text) == text
    assert redacted([text, "next"]) == [text, "next"]


def test_the_command_the_profile_and_the_remote_are_cleaned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (
        ["init", "-q"],
        ["-c", "user.name=x", "-c", "user.email=x", "commit", "-q", "--allow-empty", "-m", "x"],
        ["remote", "add", "origin", f"https://oauth2:{SECRET}@git.site.org/x.git"],
    ):
        subprocess.run(["git", *words], check=True)
    command = ["hpcjobs", "sweep", "--set", f"net.token={SECRET},b;{SECRET}", "--api-key", SECRET, "--gpus", "1,2"]
    profile = {
        "name": "site",
        "env": {
            "WANDB_API_KEY": SECRET,
            "NCCL_DEBUG": "WARN",
            "DB_PASSWORD": f"{SECRET} {SECRET}",
            "MYSQL_PWD": SECRET,
        },
        "prologue": f"module purge\nexport AWS_SECRET_ACCESS_KEY={SECRET}\n",
        "launcher_options": ["-x", f"GITHUB_TOKEN={SECRET}", "--bind-to", "none"],
        "sbatch": {"export": f"ALL,MY_SECRET={SECRET}", "contiguous": True},
        "retry": {"node_failure": 2},
    }
    record = provenance(command, profile)
    assert SECRET not in json.dumps(record)
    assert record["command"][-2:] == ["--gpus", "1,2"]
    assert record["cluster"]["env"]["NCCL_DEBUG"] == "WARN"
    assert record["cluster"]["launcher_options"] == ["-x", "GITHUB_TOKEN=***", "--bind-to", "none"]
    assert record["cluster"]["sbatch"]["contiguous"] is True
    assert record["cwd_git"]["remote"] == "https://oauth2:***@git.site.org/x.git"
    assert (record["cwd_git"]["clean"], len(record["cwd_git"]["commit"])) == (True, 40)


def test_outside_of_git_there_is_no_git_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert provenance([], {})["cwd_git"] is None


def test_the_code_state_is_that_of_hpcjobs_in_any_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(__file__).parents[2]
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True
    ).stdout.strip()
    monkeypatch.chdir(tmp_path)
    assert provenance([], {})["git"]["commit"] == head


def test_a_file_beside_the_code_does_not_make_it_unclean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = tmp_path / "hpcjobs-checkout"
    (checkout / "hpcjobs" / "base").mkdir(parents=True)
    (checkout / "hpcjobs" / "base" / "provenance.py").touch()
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=x", "-c", "user.email=x", "commit", "-q", "-m", "x"]):
        subprocess.run(["git", *words], cwd=checkout, check=True)
    monkeypatch.setattr("hpcjobs.base.provenance.__file__", str(checkout / "hpcjobs" / "base" / "provenance.py"))
    (checkout / "first").mkdir()
    (checkout / "first" / "sweep.yaml").touch()
    assert code_state()["clean"] is True
    (checkout / "hpcjobs" / "new.py").touch()
    assert code_state()["clean"] is False


def test_git_runs_no_program_from_the_configuration_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(
        ["git", "-c", "user.name=x", "-c", "user.email=x", "commit", "-q", "--allow-empty", "-m", "x"], check=True
    )
    (tmp_path / "spy").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "spy").chmod(0o755)
    subprocess.run(["git", "config", "core.fsmonitor", str(tmp_path / "spy")], check=True)
    assert provenance([], {})["cwd_git"]["clean"] is False
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("part", ["a=", "token=", "'", "://", "a:", "--", "http://", "token='", 'key="\\'])
@pytest.mark.timeout(60)  # a bad pattern would take hours
def test_no_text_takes_long(part: str) -> None:
    assert len(redacted(part * 20_000)) > 0
