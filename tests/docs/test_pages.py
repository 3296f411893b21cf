"""What stands in the documentation is what hpcjobs takes; every command is run by a test or says that it is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

from hpcjobs.base.errors import InputError
from hpcjobs.config import Cluster, Document, convert
from hpcjobs.trainers.registry import experiment_in
from tests.docs.pages import PAGES, ROOT, SHELL, UNRUN, Code, blocks, code, commands, refusal

KINDS = {SHELL, UNRUN, "yaml", "python", "text", "jinja", "{toctree}", "{eval-rst}"}
# Who runs the pages' commands: by `follow("docs/PAGE.md")`, so that none is followed by nobody, and none twice.
FOLLOWERS = ("tests/docs/test_local.py", "tests/slurm/test_docs.py", "tests/control/test_install.py")
# A page whose blocks are one program, and the test that runs it.
PROGRAMS = {"docs/python.md": "tests/docs/test_python.py"}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def page_of(folder: Path, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(text)
    return page


@each_page
def test_every_block_says_what_it_is(page: Path) -> None:
    unknown = [each.where for each in code(page) if each.kind not in KINDS | {"span"}]
    assert unknown == []


@each_page
def test_every_command_line_is_one_that_hpcjobs_takes(page: Path) -> None:
    """Those that are run, those that are not, and those that are named in the text, where an option may be left out."""
    wrong = []
    for each in code(page):
        if each.kind in (SHELL, UNRUN) or (each.kind == "span" and each.text.startswith("hpcjobs ")):
            for words in commands(each.text):
                if words[:1] != ["COMMAND"] and (said := refusal(words, whole=each.kind != "span")):
                    wrong.append(f"{each.where}: {' '.join(words)}: {said}")
    assert wrong == []


@each_page
def test_every_yaml_is_of_a_profile_or_of_an_experiment(page: Path) -> None:
    wrong = [f"{each.where}: {said}" for each in blocks(page, "yaml") if (said := misfit(each.text))]
    assert wrong == []


def misfit(text: str) -> str | None:
    """Why it is a part of neither, or None."""
    keys = yaml.safe_load(text) or {}
    try:
        convert(Document("YAML", {"name": "mine", "gpus_per_node": 4, **keys}, {}), Cluster)
        return None
    except InputError as error:
        said = str(error)
    required = {"command": ["true"]} if keys.get("trainer") == "command" else {"batch": {"local": 1}}
    try:
        experiment_in(Document("YAML", {"name": "mine", **required, **keys}, {}))
        return None
    except InputError as error:
        return f"{said}; {error}"


def test_commands_are_found_as_a_shell_would_find_them(tmp_path: Path) -> None:
    page = page_of(
        tmp_path,
        "```sh\nhpcjobs status a  # hpcjobs b\nhpcjobs collect \\\n    --logs 'c d' | hpcjobs report -\n"
        "cat >e <<'END'\nhpcjobs f\nEND\ncd g && hpcjobs cancel h > i\n```\n",
    )
    (block,) = blocks(page, SHELL)
    assert commands(block.text) == [
        ["status", "a"], ["collect", "--logs", "c d"], ["report", "-"], ["cancel", "h"]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("hpcjobs swep --gpus 1", "no command 'swep'"),
        ("hpcjobs cluster detects", "No such command 'detects'"),
        ("hpcjobs status study --wach", "No such option '--wach'"),
        ("hpcjobs status", "Missing argument 'FOLDER'"),
        ("hpcjobs status study more", "unexpected extra argument (more)"),
        ("hpcjobs sweep --repeats few", "'few' is not a valid integer"),
        ("hpcjobs cluster", "wants a command"),
        ("hpcjobs data prepare --images a b --metadata m --train-list t --test-list u --out o", None),
        ("hpcjobs sweep --gpus 1,2 --sbatch OPTION=VALUE --throttle N ...", None),
        ("hpcjobs --version --json", None),
    ],
)
def test_a_line_that_hpcjobs_would_refuse_is_noticed(line: str, says: str | None) -> None:
    (words,) = commands(line)
    said = refusal(words, whole=True)
    assert (said is None) if says is None else (says in str(said))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("partition: gpu\ntime: '1:00'", None),
        ("measure: {precision: 0.01}", None),
        ("trainer: command\nmeasure: {unit: tokens}", None),
        ("trainer: command\nmeasure: {warmup_steps: 3}", "unknown key"),
        ("partitions: gpu", "unknown key 'partitions'"),
        ("requeues: often", "key 'requeues': expected a whole number"),
        ("partition: gpu\nmeasure: {precision: 0.01}", "unknown key"),
    ],
)
def test_yaml_that_hpcjobs_would_refuse_is_noticed(text: str, says: str | None) -> None:
    said = misfit(text)
    assert (said is None) if says is None else (says in str(said))


def test_indented_code_has_no_kind_that_a_page_may_have(tmp_path: Path) -> None:
    (found,) = code(page_of(tmp_path, "Text:\n\n    make demo\n"))
    assert found.kind == "indented"
    assert found.kind not in KINDS


def test_every_page_is_in_the_table_of_contents_once() -> None:
    index = ROOT / "docs" / "index.md"
    listed = [
        (index.parent / f"{line}.md").resolve()
        for block in blocks(index, "{toctree}")
        for line in block.text.splitlines()
        if line and not line.startswith(":")
    ]
    assert sorted(listed) == sorted({*listed})
    assert set(PAGES) - set(listed) == {index}


def test_every_page_with_commands_is_followed_by_one_test() -> None:
    followed = [name for path in FOLLOWERS for name in re.findall(r'follow\(\s*"([^"]+)"', (ROOT / path).read_text())]
    followed += [page for page, test in PROGRAMS.items() if f'"{Path(page).name}"' in (ROOT / test).read_text()]
    with_commands = [str(page.relative_to(ROOT)) for page in PAGES if blocks(page, SHELL) or blocks(page, "python")]
    assert sorted(followed) == sorted(with_commands)


@each_page
def test_no_block_asks_for_a_table_before_there_can_be_one(page: Path) -> None:
    """`report` fails where no run has ended; the stage waits between blocks, within one only the page can."""
    assert [block.where for block in blocks(page, SHELL) if hasty(block.text)] == []


def hasty(text: str) -> bool:
    """Whether it reports or predicts from a sweep of its own that nothing waited for."""
    going = set()
    for words in commands(text):
        if words[0] == "sweep" and "--out" in words and not {"--wait", "--dry-run"} & {*words}:
            going.add(words[words.index("--out") + 1])
        elif {"--watch", "--wait"} & {*words}:
            going.discard(words[1])
        elif words[0] in ("report", "predict") and words[1] in going:
            return True
    return False


@pytest.mark.parametrize(
    ("between", "expected"), [("status s", True), ("status s --watch", False), ("status t --watch", True)]
)
def test_haste_is_noticed(between: str, expected: bool) -> None:
    assert hasty(f"hpcjobs sweep --gpus 1 --out s\nhpcjobs {between}\nhpcjobs report s") == expected


@each_page
def test_what_no_test_runs_word_by_word_is_run_otherwise_or_says_so(page: Path) -> None:
    """A target of the Makefile, a line that another block has, or else a word about it below the same heading."""
    run_elsewhere = {line for each in PAGES for block in blocks(each, SHELL) for line in lines(block.text)}
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    silent = [
        f"{block.where}: {line}"
        for block in blocks(page, UNRUN)
        for line in lines(block.text)
        if not (line in run_elsewhere or line in {f"make {target}" for target in targets} or SAID.search(around(block)))
    ]
    assert silent == []


SAID = re.compile(r"not run by us|by hand|tests? runs?\b", re.IGNORECASE)


def lines(text: str) -> list[str]:
    """The commands of a block, without comments."""
    whole = re.sub(r"\s+#.*$", "", text.replace("\\\n", " "), flags=re.MULTILINE)
    return [" ".join(line.split()) for line in whole.splitlines() if line.strip()]


def around(block: Code) -> str:
    """The text between the headings before and after a block."""
    text = block.page.read_text().splitlines()
    headings = [token.map[0] for token in MarkdownIt().parse("\n".join(text)) if token.type == "heading_open"]
    start = max((line for line in headings if line < block.line), default=0)
    end = min((line for line in headings if line >= block.line), default=len(text))
    return "\n".join(text[start:end])
