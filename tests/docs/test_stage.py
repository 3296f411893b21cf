"""The harness itself: a page whose commands do not work must not pass."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.stage import Stage


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def page(stage: Stage, text: str) -> Path:
    stage.write("page.md", text)
    return stage.folder / "page.md"


@pytest.mark.parametrize(
    ("block", "says"),
    [
        ("```sh\nfalse\ntrue\n```", "exit 1"),
        ("```sh\nfalse | cat\n```", "exit 1"),
        ("```sh\nhpcjobs status nowhere\n```", "exit 2"),
        ("```python\nprint(absent)\n```", "NameError"),
    ],
)
def test_what_fails_is_named_by_its_line(block: str, says: str, stage: Stage) -> None:
    with pytest.raises(AssertionError) as caught:
        stage.follow(page(stage, f"# Title\n\n```sh\necho well\n```\n\n{block}\n"))
    assert "page.md:7" in str(caught.value)
    assert says in str(caught.value)


def test_one_shell_runs_all_blocks_and_what_its_reader_does_between(stage: Stage) -> None:
    text = """
```sh
mkdir a
cd a
word=hello
```

```sh not-run
false
```

```sh
echo $word ~ $(pwd) /scratch/chestxray14
```
"""
    said = stage.follow(page(stage, text), between={"echo": "word=$word,there"})
    home, folder, shards = stage.folder / "home", stage.folder / "a", stage.folder / "scratch" / "chestxray14"
    assert said == ["", f"hello,there {home} {folder} {shards}\n"]


def test_the_next_block_finds_a_sweep_at_its_end(stage: Stage) -> None:
    """`hpcjobs` is a fake, that says what it is asked."""
    stage.write("bin/hpcjobs", "#!/bin/bash\necho $* >>asked\nmkdir -p study; touch study/sweep.yaml\n")
    stage.follow(page(stage, "```sh\nhpcjobs sweep --out study\n```\n\n```sh\nhpcjobs report study\n```\n"))
    asked = (stage.folder / "asked").read_text().splitlines()
    assert asked == ["sweep --out study", "status study --watch", "report study"]


# A fake `hpcjobs` that says what it is asked. Its study has failed until it is resumed.
FAILING = """\
#!/bin/bash
echo $* >>asked
run=study/runs/g0016-r01/a001
case $1 in
    sweep) mkdir -p $run; touch study/sweep.yaml; echo "{log}" >$run/job.log; touch $run/{file} ;;
    status) [ -e resumed ] ;;
    resume) touch resumed ;;
esac
"""
BLOCK = "```sh\nhpcjobs sweep --out study\n```\n"


def test_a_crash_in_mpi_init_is_resumed_as_a_reader_would(stage: Stage) -> None:
    stage.write("bin/hpcjobs", FAILING.format(log="[c4140-1:14329] Signal: Segmentation fault (11)", file="claim"))
    stage.follow(page(stage, BLOCK))
    asked = (stage.folder / "asked").read_text().splitlines()
    assert asked == [
        "sweep --out study",
        "status study --watch",
        "status study",
        "resume study",
        "status study --watch",
    ]


@pytest.mark.parametrize(
    ("log", "file"), [("Signal: Segmentation fault (11)", "train.log"), ("ValueError: no shards", "claim")]
)
def test_other_failures_are_told_with_the_logs(log: str, file: str, stage: Stage) -> None:
    """A rank that crashes after it has trained, and one that ends by itself."""
    stage.write("bin/hpcjobs", FAILING.format(log=log, file=file))
    with pytest.raises(AssertionError, match=re.escape(log)):
        stage.follow(page(stage, BLOCK))
    assert not (stage.folder / "resumed").exists()
