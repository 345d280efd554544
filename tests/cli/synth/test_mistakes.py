"""The flags of mistakes and missing premises, from the command line to records, shards, the checker and the audit."""

import json

import pytest

from synth import generate
from synth.judge.audit_record import audit_record
from synth.store.writers import read_shards


@pytest.fixture
def lines(capsys):
    """Runs the generator and returns its records."""

    def run(*arguments: str) -> list[dict]:
        generate.main([*arguments, "--count", "12", "--out", "-"])
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def test_flags_reach_the_records(lines):
    slips = lines("--retry-kind", "slip", "--retry-rate", "0.5", "--uncorrected", "0.4")
    kinds = {(m["kind"], m["corrected"]) for record in slips for m in record["mistakes"]}
    assert kinds == {("slip", True), ("slip", False)}
    missing = lines("--missing-premise")
    assert sum(r["missing"] is not None for r in missing) > 6
    assert all(r["solution"].endswith(" Undetermined.") == (r["answer"] is None) for r in missing)
    assert 0 < sum(r["missing"] is not None for r in lines("--missing-premise", "0.3")) < 10
    longer = lines("--no-shortest")
    assert any(r["solution"].count(" Define ") > len(r["needed_order"]) for r in longer)
    for record in [*slips, *missing, *longer]:
        assert not list(audit_record(record))


def test_the_mask_is_in_the_shards(tmp_path):
    flags = ["--preset", "tiny", "--retry-rate", "0.5", "--count", "30"]
    for mask in ("none", "step"):
        generate.main([*flags, "--mask-mistakes", mask, "--out", f"{tmp_path / mask}/"])
    written = {mask: read_shards(tmp_path / mask)[0] for mask in ("none", "step")}
    none, step = (written[mask].loss.sum() for mask in ("none", "step"))
    mistakes = (written["step"].mistake > 0).sum() // 6
    assert mistakes > 10 and none - step == 4 * mistakes


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--uncorrected", "0.5"], "uncorrected=0.5 is not possible with retry_kind='retry'"),
        (["--uncorrected", "2"], "--uncorrected: 2 is not possible; accepted: 0 <= rate <= 1"),
        (["--missing-premise", "x"], "--missing-premise: x is not possible"),
        (["--no-shortest", "--solution-order", "published"], "shortest=False is not possible"),
    ],
)
def test_bad_flags_are_one_line(capsys, flags, text):
    with pytest.raises(SystemExit) as stopped:
        generate.main(flags)
    out, err = capsys.readouterr()
    assert (stopped.value.code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ") and text in err and "accepted" in err
