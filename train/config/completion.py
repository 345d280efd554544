"""Tab completion of the commands, by Hydra's own plugins.

    eval "$(python -m train.pretrain --shell-completion install=bash)"     # in ~/.bashrc; zsh likewise, fish: see below

completes `python -m MODULE`, `glasshouse MODULE` and their settings for every command. Hydra's own script knows scripts
and programs only, so ours calls its plugin for modules.
"""

import os
import re
from collections.abc import Sequence

from hydra._internal.hydra import Hydra

SCRIPT = """\
_glasshouse_complete() {
  local words=($COMP_LINE) start=1
  case "${words[0]}" in *python*) [ "${words[1]}" = -m ] || return; start=2 ;; esac
  case "${words[$start]}" in train.*|probes.*) ;; *) return ;; esac
  local found
  found=$(COMP_LINE="$COMP_LINE" COMP_POINT="$COMP_POINT" "${words[@]:0:$((start + 1))}" --shell-completion query=bash)
  COMPREPLY=($found)
  local word="${COMP_LINE:0:$COMP_POINT}"; word="${word##* }"
  case "$word" in *=*) COMPREPLY=("${COMPREPLY[@]#"${word%%=*}="}") ;; esac
}
complete -o nospace -o default -F _glasshouse_complete glasshouse python python3
"""
SHELLS = {"bash": SCRIPT, "zsh": f"autoload -Uz bashcompinit && bashcompinit\n{SCRIPT}"}


def complete(hydra: Hydra, name: str, words: Sequence[str]) -> None:
    """Prints the script for a shell (install=SHELL, uninstall=SHELL), or what may come next (query=bash)."""
    what, _, shell = (words[0] if len(words) == 1 else "").partition("=")
    if what not in ("install", "uninstall", "query") or shell not in SHELLS:
        raise ValueError(f"--shell-completion {' '.join(words)}: accepted: install=bash, install=zsh, uninstall=bash, "
                         "uninstall=zsh")  # fmt: skip
    if what == "install":
        print(SHELLS[shell], end="")
    elif what == "uninstall":
        print("complete -r glasshouse python python3")
    else:
        line = os.environ.get("COMP_LINE", "")[: int(os.environ.get("COMP_POINT", "100000"))]
        line = re.sub(r"^\s*\S*python\S*\s+-m\s+\S+|^\s*\S+\s+(train|probes)\.\S+", "glasshouse", line)
        os.environ |= {"COMP_LINE": line, "COMP_POINT": str(len(line))}
        hydra.shell_completion(name, list(words))
