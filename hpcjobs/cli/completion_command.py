"""`hpcjobs completion`, and what the scripts that it prints ask hpcjobs for at every press of the tab key.

By click's machinery, with scripts of our own: they hand over the line as it is typed, so that `--experiment=ch` is
completed where a shell takes it for three words, and get back words that are quoted as they must be.
"""

from __future__ import annotations

import dataclasses
import os
import re

import click
from click.shell_completion import CompletionItem, ShellComplete, add_completion_class, split_arg_string

from hpcjobs.cli import names

# The variable by which click knows that it is asked to complete; of the program's name.
VARIABLE = "_HPCJOBS_COMPLETE"
LINE = "COMP_LINE"

# Each runs the program that is typed, and by `command`: neither a function nor an alias of its name. Variables are set
# in a shell of their own, or local ones: `env` would take a path with an = in it for one more of them.
_BASH = f"""\
# hpcjobs completion bash
%(complete_func)s() {{
    COMPREPLY=()
    local name program=$1
    if [[ $program == \\~/* ]]; then
        program=${{HOME-}}/${{program:2}}
    fi
    while IFS= read -r name; do
        [[ -n $name ]] && COMPREPLY+=("$name")
    done < <(
        export %(complete_var)s=bash_complete {LINE}="${{COMP_LINE:0:COMP_POINT}}" COMP_WORDBREAKS
        command "$program" 2>/dev/null
    )
    if [[ ${{COMPREPLY[0]-}} == *[=/] ]]; then
        compopt -o nospace
    fi
}}
complete -F %(complete_func)s %(prog_name)s
"""

_ZSH = f"""\
#compdef %(prog_name)s
# hpcjobs completion zsh
%(complete_func)s() {{
    local -a whole begun
    local name program="${{(Q)words[1]}}" line="${{words[1,CURRENT-1]}} $QIPREFIX$IPREFIX$PREFIX"
    for name in "${{(@f)$(
        exec 2>/dev/null
        [[ $program == '~'* ]] && program=${{~program}}
        export %(complete_var)s=zsh_complete {LINE}="$line"
        command "$program"
    )}}"; do
        case $name in
            -*) whole+=("${{name#-}}") ;;
            +*) begun+=("${{name#+}}") ;;
        esac
    done
    compset -P '*[/=,]'
    (( $#begun )) && _describe -t begun name begun -S ''
    (( $#whole )) && _describe -t whole name whole
}}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""

# Whatever a fish may say stands first on the line: nothing of another name is run.
_FISH = f"""\
# hpcjobs completion fish
function %(complete_func)s
    set -l program (string match --invert --regex '^[A-Za-z_]\\w*=' -- (commandline -opc))[1]
    string match --quiet --regex '(^|/)%(prog_name)s$' -- "$program"; or set program %(prog_name)s
    set -lx %(complete_var)s fish_complete
    set -lx {LINE} (commandline -cp | string collect)
    set program (string replace --regex '^~/' "$HOME/" -- $program)
    command $program 2>/dev/null | string match --regex '.+'
end
complete --command %(prog_name)s --no-files --arguments '(%(complete_func)s)'
"""

# Where standard input and output go to: what may stand before the sign, and the signs.
_DESCRIPTOR = re.compile(r"\d+|&|\{\w+\}")
_REDIRECTION = re.compile(r"<<<|<<-|<<|<&|<>|<|>>|>&|>\||>\?|>")


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script by which a SHELL completes commands, options, and names of experiments, clusters and sweeps.

    \b
    bash, for you alone: in ~/.bashrc
        eval "$(hpcjobs completion bash)"
    for all, where the package bash-completion is installed:
        hpcjobs completion bash > /etc/bash_completion.d/hpcjobs
    \b
    zsh, for you alone: in ~/.zshrc, behind compinit
        eval "$(hpcjobs completion zsh)"
    for all:
        hpcjobs completion zsh > /usr/local/share/zsh/site-functions/_hpcjobs
    \b
    fish, for you alone:
        hpcjobs completion fish > ~/.config/fish/completions/hpcjobs.fish
    for all:
        hpcjobs completion fish > /usr/share/fish/vendor_completions.d/hpcjobs.fish
    \b
    An alias is completed in zsh and fish; bash completes the name hpcjobs alone.
    """
    root = click.get_current_context().find_root()
    click.echo(_SHELLS[shell](root.command, {}, "hpcjobs", VARIABLE).source(), nl=False)


@dataclasses.dataclass(frozen=True)
class Typed:
    """A line up to the cursor: the `words` before the last one, and this one as typed (`raw`) and as meant (`word`).

    Redirections are no words. `redirects`: the last one is where one goes to; `quote`: the quotation mark that is open
    in it, or ""; `opened`: where the text behind it begins in `raw`; `broken`: where the text behind the last of the
    `breaks` begins.
    """

    words: list[str]
    raw: str
    word: str
    redirects: bool
    quote: str
    opened: int
    broken: int

    @classmethod
    def of(cls, line: str, breaks: str = "") -> Typed:
        """Read a line, as a POSIX shell would."""
        words: list[str] = []
        start = opened = broken = at = 0
        quote, redirects = "", False
        while at < len(line):
            sign = line[at]
            redirection = _REDIRECTION.match(line, at) if line[at + 1 : at + 2] != "(" else None  # not of <(command)
            if sign == "\\" and quote != "'":
                at += 1
            elif quote:
                quote = "" if sign == quote else quote
            elif sign in "'\"":
                quote, opened = sign, at + 1
            elif sign in " \t\n" or redirection:
                ended = line[start:at]
                if not redirects and not (redirection and _DESCRIPTOR.fullmatch(ended)):
                    words += split_arg_string(ended)
                at = redirection.end() - 1 if redirection else at
                redirects = bool(redirection) or (redirects and not ended)
                start = broken = at + 1
            elif sign in breaks:
                broken = at + 1
            at += 1
        raw = line[start : -1 if at > len(line) else None]  # without a backslash that quotes nothing yet
        word = "".join(split_arg_string(raw))
        return cls(words, raw, word, redirects, quote, opened - start, broken - start)

    def quoted(self, more: str) -> str:
        """What follows `raw`, quoted as it must be behind it."""
        if self.quote == "'":
            return more.replace("'", "'\\''")
        return re.sub(r'([\\"$`])' if self.quote else r"([^\w@%+=:,./-])", r"\\\1", more)


class _Completion(ShellComplete):
    """What the three shells have in common. A completion must not disturb the line that is being typed."""

    typed: Typed

    def complete(self) -> str:
        """What the script reads, a line for each name; nothing where anything goes wrong."""
        try:
            return super().complete()
        except Exception:
            return ""

    def get_completion_args(self) -> tuple[list[str], str]:
        """(words before the one that is completed, and this one)."""
        self.typed = Typed.of(os.environ.get(LINE, ""), os.environ.get("COMP_WORDBREAKS", ""))
        return self.typed.words[1:], self.typed.word

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        """Whole words, `--option=` included: click completes what stands behind it."""
        if self.typed.redirects:
            return names.paths(incomplete)
        option, equals, _ = incomplete.partition("=")
        head = option + equals if equals and option.startswith("--") else ""
        found = []
        for item in super().get_completions(args, incomplete):
            inner = [item] if item.type == "plain" else names.paths(item.value, folders=item.type == "dir")
            found += [CompletionItem(head + each.value, help=each.help) for each in inner]
        return [item for item in found if item.value.startswith(incomplete)]


class _Bash(_Completion):
    name = "bash"
    source_template = _BASH

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        """Without what double quotes cannot hold: an exclamation mark is history there, and \\! keeps its backslash."""
        found = super().get_completions(args, incomplete)
        return [item for item in found if self.typed.quote != '"' or "!" not in item.value[len(incomplete) :]]

    def format_completion(self, item: CompletionItem) -> str:
        """What takes the place of the piece that bash completes: it begins behind a quotation mark, an = or a colon."""
        typed = self.typed
        begins = typed.opened if typed.quote else typed.broken
        return (typed.raw + typed.quoted(item.value[len(typed.word) :]))[begins:]


class _Zsh(_Completion):
    name = "zsh"
    source_template = _ZSH

    def format_completion(self, item: CompletionItem) -> str:
        """`+` (to be gone on with) or `-`, then NAME:WORDS as _describe takes it; zsh does the quoting."""
        begins = max(self.typed.word.rfind(sign) for sign in "/=,") + 1
        name = re.sub(r"([\\:])", r"\\\1", item.value[begins:])
        return f"{'+' if item.value.endswith(('=', '/')) else '-'}{name}{_words(item, ':')}"


class _Fish(_Completion):
    name = "fish"
    source_template = _FISH

    def format_completion(self, item: CompletionItem) -> str:
        """NAME, a tab, words; fish does the quoting, and leaves out the blank behind = and /."""
        return f"{item.value}{_words(item, chr(9))}"


def _words(item: CompletionItem, sign: str) -> str:
    return sign + " ".join(item.help.split()) if item.help else ""


_SHELLS: dict[str, type[_Completion]] = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}
for _each in _SHELLS.values():
    add_completion_class(_each)
