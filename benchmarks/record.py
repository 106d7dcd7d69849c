"""Facts about the machine and the versions, and the file that results are appended to."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent


def machine() -> dict[str, Any]:
    """What a reader needs to compare figures: processor, versions, commit; nothing that names a host or a path."""
    cpu = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        names = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
        cpu = names[0] if names else cpu
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False)
    return {
        "cpu": cpu,
        "cpus": len(os.sched_getaffinity(0)),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnx": version("onnx"),
        "scikit-learn": version("scikit-learn"),
        "commit": commit.stdout.strip(),
    }


def append(suite: str, rows: list[dict[str, Any]]) -> Path:
    """Adds one line to results/<suite>.jsonl."""
    path = HERE / "results" / f"{suite}.jsonl"
    path.parent.mkdir(exist_ok=True)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    with path.open("a") as file:
        file.write(json.dumps({"date": when, "machine": machine(), "rows": rows}) + "\n")
    return path


def resident_kib() -> int:
    """The resident memory of this process."""
    for line in open("/proc/self/status"):
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise RuntimeError("no VmRSS in /proc/self/status")
