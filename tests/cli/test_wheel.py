"""The built wheel works from an empty folder: configurations, worlds and the zoo travel with it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.commands import environment
from tests.helpers.paths import ROOT

KEPT = ("synth", "models", "train", "probes", "configs", "pyproject.toml", "setup.py", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The folder of an installed wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in KEPT:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / "source" / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder / "source"]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True, capture_output=True)
    return folder / "site"


def glasshouse(site: Path, folder: Path, *arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """Runs the installed command in `folder`; `path` comes before the wheel where Python looks for packages."""
    variables = environment(PYTHONPATH=f"{path}:{site}" if path else str(site), GLASSHOUSE_JIT="0")
    words = [sys.executable, str(site / "bin" / "glasshouse"), *arguments]
    return subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True, timeout=250, check=False)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("synth.generate", "--ops", "5"), "Problem "),
        (("train.opd.table",), "`gkd`"),
        (("models.sizes",), "nano"),
        (("train.zoo",), "tiny-teacher-0"),
        (("train.recipe", "--help"), "quickstart"),
    ],
)
def test_a_command_of_the_wheel_answers_beside_folders_of_its_packages_names(site, tmp_path, arguments, shown):
    for name in ("train", "models"):
        (tmp_path / name).mkdir()
    done = glasshouse(site, tmp_path, *arguments)
    assert (done.returncode, done.stderr) == (0, "") and shown in done.stdout


def test_distillation_runs_from_the_wheel_in_an_empty_folder(site, tmp_path):
    done = glasshouse(site, tmp_path, "train.opd.run", "method=gkd", "scale=smoke", "budget.steps=2")
    assert done.returncode == 0, done.stderr
    (run,) = tmp_path.glob("runs/*/*")
    assert (run / "summary.json").is_file()


def test_a_package_in_the_way_is_named(site, tmp_path):
    other = tmp_path / "other" / "models"
    other.mkdir(parents=True)
    (other / "__init__.py").touch()
    done = glasshouse(site, tmp_path, "models.sizes", path=str(tmp_path / "other"))
    assert done.returncode == 2 and "package models" in done.stderr and str(other) in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("module", ["train.nothing", "os", "synth", "nothing.at.all"])
def test_an_unknown_command_is_one_line(site, tmp_path, module):
    done = glasshouse(site, tmp_path, module)
    assert (
        done.returncode == 2
        and done.stderr
        == f"error: command {module}: there is none; accepted: a module such as synth.generate or train.recipe\n"
    )
