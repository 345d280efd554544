"""The cost of a run: operations by formula, and days from a rate."""

import pytest
import yaml

from models.flops import n_params, training_flops_per_token
from models.sizes import FOLDER, read_size
from synth.spec import preset
from synth.store.files import atomic_write
from train import cost


def test_the_operations_of_a_token_are_those_of_the_papers_model():
    """12 layers of width 768: 85M weights in blocks; 6 operations for each, and attention over 384.5 positions."""
    config = read_size(FOLDER / "gpt2-12-12.yaml", 1751)
    block = 12 * (4 * 768**2 + 2 * 768 * 3072)
    expected = 3 * (2 * (block + 768 * config.vocab_size) + 4 * 12 * 768 * 384.5)
    assert training_flops_per_token(config, 768) == expected
    assert pytest.approx(39.3e9, rel=1e-2) == cost.TOKENS


def test_days_follow_from_the_rate(capsys):
    assert cost.main(["--tokens", "1e9", "--peak", "1e15", "--share", "0.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1e+09 tokens in windows of 768, at 5e+14 FLOP/s (assumed):"
    row = next(line for line in lines if line.startswith("gpt2-12-12")).split()
    config = read_size(FOLDER / "gpt2-12-12.yaml", len(preset("med").load_world().vocabulary))
    each = training_flops_per_token(config, 768)
    assert row[1] == f"{n_params(config) / 1e6:.2f}M"
    assert float(row[-2]) == pytest.approx(1e9 * each / 5e14 / 86400, rel=1e-2)
    assert float(row[-1]) == pytest.approx(float(row[-2]) / 8, rel=1e-2)


def test_a_run_is_measured_by_its_ledger(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cost, "matmul_rate", lambda: 4e9)
    run = tmp_path / "mine-12345678"
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump({"seed": 0}))
    atomic_write(
        run / "ledger.json",
        '{"tokens": {"update": 2000}, "flops": {"update": 1e10}, "seconds": {"update": 5, "evaluation": 95}}',
    )
    assert cost.main([str(run), "--tokens", "86400", "--measure"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["mine-12345678", "400", "2e+09", "50.0%", "0.0025"]


@pytest.mark.parametrize(
    ("words", "say"),
    [
        (["--tokens", "0"], "--tokens 0.0: accepted: above 0"),
        (["--share", "2"], "--share 2.0: accepted: above 0, up to 1"),
        (["no/such"], "no/such: is not a run folder"),
    ],
)
def test_bad_input_is_one_line(words, say, capsys):
    with pytest.raises(SystemExit) as stop:
        cost.main(words)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {say}")


def test_the_rate_of_this_machine_is_a_number():
    assert cost.matmul_rate(0.01) > 1e8
