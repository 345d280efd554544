"""What a result depends on besides its config: the code, the packages, the machine, the command.

`describe()` is what `manifest.json` records. It names no user, host or path beyond those in the command itself.
Try: `python -c "from train.runs.manifest import describe; print(describe())"`.
"""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "numpy", "numba", "transformers", "safetensors", "einops", "hydra-core", "omegaconf")


def describe() -> dict[str, Any]:
    """Command, UTC time, commit, hash of uncommitted changes (null if none or no repository), versions, hardware."""
    return {
        "command": _command(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD").decode().strip() or None,
        "changes": _changes(),
        "versions": {"python": platform.python_version(), **_versions()},
        "hardware": _hardware(),
    }


def _command() -> list[str]:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    start = ["-m", spec.name] if spec else [Path(sys.argv[0]).name]
    return ["python", *start, *sys.argv[1:]]


def _git(*arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return b""
    return done.stdout if done.returncode == 0 else b""


def _changes() -> str | None:
    """sha256 over the difference to the commit and over new source files that git does not ignore."""
    content = _git("diff", "HEAD", "--binary")
    for name in sorted(_git("ls-files", "--others", "--exclude-standard", "-z").decode().split("\0")):
        if name.endswith((".py", ".yaml", ".json")) and (ROOT / name).is_file():
            content += name.encode() + b"\0" + (ROOT / name).read_bytes()
    return hashlib.sha256(content).hexdigest() if content else None


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _hardware() -> dict[str, Any]:
    torch = sys.modules.get("torch")  # not imported for this: a recipe's own process stays light
    gpus = []
    if torch is not None and torch.cuda.is_available():
        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"cpu": _cpu(), "cores": os.cpu_count(), "threads": torch.get_num_threads() if torch else None, "gpus": gpus}


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
