"""`hpcjobs completion`, which prints a script, and the answers to that script at each press of the tab key.

The classes are click's, the scripts are our own. A script passes the line as it was typed, because bash would split
`--experiment=ch` into three words. It receives words that are already quoted.
"""

from __future__ import annotations

import dataclasses
import os
import re

import click
from click.shell_completion import CompletionItem, ShellComplete, add_completion_class, split_arg_string

from hpcjobs.cli import names

# If this variable is set, click completes instead of running a command. Its name is made of the program's.
VARIABLE = "_HPCJOBS_COMPLETE"
# The variable with the line up to the cursor.
LINE = "COMP_LINE"

# Each script runs the program as it was typed, with `command`, so that no function or alias of that name runs. It
# exports variables in a subshell or as local ones, not with `env`, which takes a path that holds a = for a variable.
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

# Versions of fish differ in the first word of the command line. A program of another name must not run: then `hpcjobs`
# runs instead.
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

# A redirection: the file descriptor that may stand before the operator, and the operators.
_DESCRIPTOR = re.compile(r"\d+|&|\{\w+\}")
_REDIRECTION = re.compile(r"<<<|<<-|<<|<&|<>|<|>>|>&|>\||>\?|>")


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script with which SHELL completes commands, options, and names of experiments, clusters and sweeps.

    \b
    bash, for you only: in ~/.bashrc
        eval "$(hpcjobs completion bash)"
    for all users, if the package bash-completion is installed:
        hpcjobs completion bash > /etc/bash_completion.d/hpcjobs
    \b
    zsh, for you only: in ~/.zshrc, after compinit
        eval "$(hpcjobs completion zsh)"
    for all users:
        hpcjobs completion zsh > /usr/local/share/zsh/site-functions/_hpcjobs
    \b
    fish, for you only:
        hpcjobs completion fish > ~/.config/fish/completions/hpcjobs.fish
    for all users:
        hpcjobs completion fish > /usr/share/fish/vendor_completions.d/hpcjobs.fish
    \b
    zsh and fish also complete an alias of hpcjobs; bash completes only the name hpcjobs.
    """
    root = click.get_current_context().find_root()
    click.echo(_SHELLS[shell](root.command, {}, "hpcjobs", VARIABLE).source(), nl=False)


@dataclasses.dataclass(frozen=True)
class Typed:
    """A line up to the cursor: all `words` but the last, and the last one as typed (`raw`) and unquoted (`word`).

    The words do not include redirections. `redirects`: the last word is the target of a redirection. `quote`: the
    quotation mark that is open in it, or "". `opened` and `broken` are indices in `raw`: the text after that quotation
    mark, and the text after the last character of `breaks`.
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
        """Split a line as a POSIX shell does. `breaks` are the characters at which bash also splits a word."""
        words: list[str] = []
        start = opened = broken = at = 0
        quote, redirects = "", False
        while at < len(line):
            sign = line[at]
            redirection = _REDIRECTION.match(line, at) if line[at + 1 : at + 2] != "(" else None  # <(command) is none
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
        raw = line[start : -1 if at > len(line) else None]  # leaves out a last backslash, which quotes nothing yet
        word = "".join(split_arg_string(raw))
        return cls(words, raw, word, redirects, quote, opened - start, broken - start)

    def quoted(self, more: str) -> str:
        """`more`, quoted so that it can be appended to `raw`."""
        if self.quote == "'":
            return more.replace("'", "'\\''")
        return re.sub(r'([\\"$`])' if self.quote else r"([^\w@%+=:,./-])", r"\\\1", more)


class _Completion(ShellComplete):
    """What the three shells have in common. An error prints nothing: it would disturb the line that is being typed."""

    typed: Typed

    def complete(self) -> str:
        """What the script reads: a line for each name, or "" after any error."""
        try:
            return super().complete()
        except Exception:
            return ""

    def get_completion_args(self) -> tuple[list[str], str]:
        """(the words before the one to complete, the word to complete)."""
        self.typed = Typed.of(os.environ.get(LINE, ""), os.environ.get("COMP_WORDBREAKS", ""))
        return self.typed.words[1:], self.typed.word

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        """Whole words. Of `--option=value` click completes only the value, so the option is put before it again."""
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
        """Leaves out names that double quotes cannot hold: there ! means history, and \\! keeps its backslash."""
        found = super().get_completions(args, incomplete)
        return [item for item in found if self.typed.quote != '"' or "!" not in item.value[len(incomplete) :]]

    def format_completion(self, item: CompletionItem) -> str:
        """The new text of the part that bash completes, which begins after a quotation mark, an = or a colon."""
        typed = self.typed
        begins = typed.opened if typed.quote else typed.broken
        return (typed.raw + typed.quoted(item.value[len(typed.word) :]))[begins:]


class _Zsh(_Completion):
    name = "zsh"
    source_template = _ZSH

    def format_completion(self, item: CompletionItem) -> str:
        """`+` (more can be typed after it) or `-`, then NAME:DESCRIPTION as _describe reads it. zsh quotes."""
        begins = max(self.typed.word.rfind(sign) for sign in "/=,") + 1
        name = re.sub(r"([\\:])", r"\\\1", item.value[begins:])
        return f"{'+' if item.value.endswith(('=', '/')) else '-'}{name}{_description(item, ':')}"


class _Fish(_Completion):
    name = "fish"
    source_template = _FISH

    def format_completion(self, item: CompletionItem) -> str:
        """NAME, a tab, DESCRIPTION. fish does the quoting, and adds no blank after = and /."""
        return f"{item.value}{_description(item, chr(9))}"


def _description(item: CompletionItem, sign: str) -> str:
    return sign + " ".join(item.help.split()) if item.help else ""


_SHELLS: dict[str, type[_Completion]] = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}
for _each in _SHELLS.values():
    add_completion_class(_each)
