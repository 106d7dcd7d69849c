"""The benchmarks run and compare what they time; no figure is asserted."""

import subprocess
import sys
from pathlib import Path

import pytest

SPINE = Path(__file__).resolve().parent.parent / "benchmarks" / "spine.py"


@pytest.mark.parametrize("case", ["linear", "cnn"])
def test_steps(case):
    command = [sys.executable, str(SPINE), "--suite", "steps", "--only", case, "--no-record", "--threads", "1"]
    command += ["--repetitions", "2", "--seconds", "0.001"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for contender in ("torch eager", "ortmod"):
        assert contender in result.stdout
