"""The command `glasshouse`, from any folder: `glasshouse train.opd.run method=gkd scale=smoke`.

It does what `python -m train.opd.run ...` does in a checkout. `python -m` puts the current folder first, where a folder
named `train` or `models` would be taken for ours. The launcher does not, and names an installed package in the way.
"""

import importlib.util
import runpy
import sys
from pathlib import Path
from typing import NoReturn

OURS = ("synth.kernel", "models.decode", "train.launcher", "probes.readout")  # nobody else has these


def main() -> None:
    """Runs the module that the first argument names; one line and exit code 2 where that cannot be."""
    for name in OURS:
        package, _, inside = name.partition(".")
        found = importlib.util.find_spec(package)
        places = list(found.submodule_search_locations or ()) if found is not None else []
        if found is None or not any(Path(place, inside).is_dir() for place in places):  # none of them is imported
            where = "nowhere" if found is None else found.origin or list(found.submodule_search_locations or ())
            _fail(f"package {package}: found {where}, not that of Glasshouse; accepted: an environment of its own")
    module, *arguments = sys.argv[1:] or ["--help"]
    if module in ("-h", "--help"):
        print(f"{__doc__}\nFor example synth.generate, train.pretrain, train.opd.run, train.recipe, probes.run.")
        return
    if not module.startswith(("synth.", "models.", "train.", "probes.")) or not _exists(module):
        _fail(f"command {module}: there is none; accepted: a module such as synth.generate or train.recipe")
    from synth.exit_codes import quiet_start

    quiet_start(launched=True)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)
