"""The plan of a recipe as a file: what it is about, and for each stage the run folder that came of it.

A report reads the plan. A stage that a job ran has its result in a note beside its log, since several jobs may end at
once; `take_notes` enters them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from synth.store.files import naming, read_json, write_json
from train.recipes.stage import Stage


class PlanFile:
    """One seed of a recipe as a JSON file: facts about it, and for each stage its run folder and fingerprint."""

    def __init__(self, path: Path, facts: Mapping[str, Any], stages: list[Stage]):
        with naming(path):
            before = {row["name"]: row for row in read_json(path).get("stages", [])} if path.is_file() else {}
        self.path, self.facts = path, dict(facts)
        self.rows: dict[str, dict[str, Any]] = {
            stage.name: {k: v for k, v in before.get(stage.name, {}).items() if k in ("folder", "fingerprint", "argv")}
            | {"name": stage.name, "entry": stage.entry, "label": stage.label, "needs": sorted(stage.inputs)}
            | ({"items": dict(stage.items)} if stage.items else {})
            for stage in stages
        }

    def complete_folder(self, stage: Stage, fingerprint: str) -> Path | None:
        """The folder of exactly this work, if it was done before and is still there."""
        row = self.rows[stage.name]
        folder = self.path.parent / row.get("folder", "")
        same = "folder" in row and row.get("fingerprint") == fingerprint
        return folder if same and (folder / "summary.json").is_file() else None

    def enter(self, name: str, folder: Path, **row: Any) -> None:
        """Notes the folder of a stage, in the recipe's own folder or elsewhere."""
        inside = folder.parent.resolve() == self.path.parent.resolve()
        kept = {k: v for k, v in self.rows[name].items() if k not in ("argv", "fingerprint")}
        self.rows[name] = kept | row | {"folder": folder.name if inside else str(folder.resolve())}

    def take_notes(self, seed: int) -> list[str]:
        """Enters what the jobs of this seed have noted; returns a line for each stage that has not come to its end."""
        failures = []
        for name, row in self.rows.items():
            note = self.path.parent / "logs" / f"{name}-seed{seed}.json"
            found: dict[str, Any] = read_json(note) if note.is_file() else {}
            if "folder" in found:
                self.enter(name, Path(found["folder"]), argv=found["argv"], fingerprint=found["fingerprint"])
            elif "folder" not in row:
                failures.append(f"seed {seed}, {found.get('failed', f'stage {name}: did not run')}")
        return failures

    def save(self) -> None:
        """Writes the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self.facts | {"stages": list(self.rows.values())})
