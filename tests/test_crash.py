"""The crash test with few kills; tests/crash.py by itself has as many as you like."""

import shutil

import pytest

from crash import crash, differences


@pytest.mark.slow
def test_killed_runs_end_like_those_that_were_not(tmp_path):
    assert crash(tmp_path, kills=3, seed=1) == 0

    # And it would see the smallest difference.
    whole, other = tmp_path / "whole", tmp_path / "timed"
    assert not differences(other, whole)
    lines = (other / "metrics.jsonl").read_text()
    (other / "metrics.jsonl").write_text(lines.replace('"loss": 0.', '"loss": 0.0', 1))
    assert differences(other, whole) == ["other metrics"]
    newest = max((other / "checkpoints").iterdir(), key=lambda path: int(path.name))
    shutil.rmtree(newest)  # Then the state is the one of a step before.
    assert "another params/conv1/kernel" in differences(other, whole)
