"""onnxruntime-training 1.19.2: artifacts and its training loop, in a Python environment of its own, made here when missing."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import onnx
from task import Task

from peers.peer import Missing, Peer

VERSIONS = ("onnxruntime-training-cpu==1.19.2", "onnx==1.16.2", "numpy<2")
VENV = Path(__file__).resolve().parents[2] / ".venv-peers"


def environment() -> Path:
    """The Python that has onnxruntime-training; its wheels end at Python 3.11."""
    python = VENV / "bin" / "python"
    stamp = VENV / "made"
    if not stamp.exists():
        known = ("python3.11", "python3.10", "python3.9", *([sys.executable] if sys.version_info < (3, 12) else []))
        base = next(filter(which, known), None)
        if base is None:
            raise Missing("onnxruntime-training needs Python 3.9 to 3.11: found none")
        print(f"making {VENV.name} with {', '.join(VERSIONS)}", flush=True)
        install = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", *VERSIONS]
        for command in ([base, "-m", "venv", "--clear", str(VENV)], install):
            if subprocess.run(command, check=False).returncode:
                raise Missing(f"onnxruntime-training: failed: {' '.join(command)}")
        stamp.touch()
    return python


class OnnxRuntime(Peer):
    """Talks in lines of JSON with ort_worker.py, which times its own fits."""

    def __init__(self, task: Task, threads: int) -> None:
        super().__init__(task, threads)
        self.folder = tempfile.TemporaryDirectory()
        folder = Path(self.folder.name)
        onnx.save(task.model(), folder / "model.onnx")
        y = task.y.astype(np.float32) if task.loss == "bce" else task.y
        np.savez(folder / "data.npz", X=task.X, y=y)
        settings = {key: getattr(task, key) for key in ("loss", "optimizer", "rate", "batch")}
        settings.update(threads=threads, weights=task.weight_names())
        (folder / "settings.json").write_text(json.dumps(settings))
        self.log = folder / "log.txt"
        clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
        self.process = subprocess.Popen(
            [str(environment()), str(Path(__file__).with_name("ort_worker.py")), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("w"),
            text=True,
            env=clean,
        )
        self.ask({"do": "start"})

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"onnxruntime-training ended with status {self.process.wait()}: {self.log.read_text()[-2000:]}")
        return json.loads(answer)

    def fit(self, epochs: int) -> float:
        return float(self.ask({"do": "fit", "epochs": epochs})["seconds"])

    def weights(self) -> list[np.ndarray]:
        self.ask({"do": "weights"})
        with np.load(Path(self.folder.name) / "weights.npz") as found:
            return [found[name] for name in self.task.weight_names()]

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self.folder.cleanup()
