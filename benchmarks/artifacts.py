"""CPU time of a training step of artifacts on one thread, against onnxruntime-training 1.19.2 and torch eager.

Contenders run the same network with the same initial weights on the same batch, each in a process of its own, in turn: slices of
process time, so that other load on the machine counts less. Before anything is timed they must come to the same loss.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from artifacts_worker import ADAMW, CPP, NAMES, ORT, PYTHON, STOCK, TORCH, Rows
from models import CASES, Case, export
from peers.ort import environment
from peers.peer import Missing
from record import append, machine

from ortmod.training import checkpoint
from ortmod.training.artifacts import LossType, generate_artifacts
from ortmod.training.onnxblock import optim

HERE = Path(__file__).resolve().parent
CHECKED = 5  # steps after which losses are compared
# Whose step over whose is at most how much, by the start of a network's name.
BOUNDS: dict[str, list[tuple[str, str, float]]] = {
    "mlp 20-100-1": [(PYTHON, ORT, 0.3), (CPP, PYTHON, 1.0)],
    "mlp 784-500-10": [(PYTHON, ORT, 1.0), (CPP, PYTHON, 1.0)],
    "transformer": [(PYTHON, ORT, 1.0), (PYTHON, TORCH, 1.0), (CPP, PYTHON, 1.0)],
    "cnn": [(PYTHON, ORT, 1.0), (PYTHON, TORCH, 1.0), (CPP, PYTHON, 1.0), (STOCK, ORT, 2.0)],
}


def prepare(case: Case, folder: Path) -> None:
    """Writes the network, a batch and our artifacts."""
    torch.manual_seed(0)
    module, x = case.module(), case.inputs(*case.sizes)
    if case.name.startswith("transformer"):
        module = Rows(module)
    with torch.no_grad():
        y = module(x)
    target = torch.randn_like(y) if y.shape[-1] == 1 else torch.randint(y.shape[-1], y.shape[:-1])
    model = export(case, module)
    (folder / "model.onnx").write_bytes(model)
    torch.save(module.state_dict(), folder / "weights.pt")
    np.savez(folder / "data.npz", x=x.numpy(), y=target.numpy())
    checkpoint.save(checkpoint.State({"x": x, "y": target}), folder / "data.safetensors")
    loss = "MSELoss" if y.shape[-1] == 1 else "CrossEntropyLoss"
    weights = [name for name, _ in module.named_parameters()]
    (folder / "settings.json").write_text(json.dumps({"case": case.name, "loss": loss, "weights": weights}))
    generate_artifacts(folder / "model.onnx", weights, None, LossType[loss], optim.AdamW(**ADAMW), folder / "ours")


class Worker:
    """A contender: answers a number of steps by the seconds that they took and the loss of the last one."""

    def __init__(self, name: str, command: list[str], folder: Path) -> None:
        kept = {key: value for key, value in os.environ.items() if name != ORT or key not in ("PYTHONPATH", "PYTHONHOME")}
        self.log = folder / f"{NAMES[name]}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=kept | {"OMP_NUM_THREADS": "1"},
            )
        answer = self._line()
        if answer != "ready":
            self.close()
            raise Missing(f"{name}: {answer or self.log.read_text()[-400:]}")

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def run(self, steps: int) -> tuple[float, float]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        answer = self._line().split()
        if len(answer) != 2:
            raise SystemExit(f"{self.log.stem}: {self.log.read_text()[-2000:]}")
        return float(answer[0]), float(answer[1])

    def steps_for(self, seconds: float) -> int:
        steps = 1
        while (taken := self.run(steps)[0]) < seconds / 4:
            steps *= 4
        return max(1, round(steps * seconds / taken))

    def close(self) -> None:
        self.process.communicate()


def build_cpp() -> Path:
    """The C++ trainer, against the package as it is installed from build/."""
    build, out = HERE.parent / "build", HERE.parent / "build" / "benchmarks"
    if shutil.which("cmake") is None or not (build / "cmake_install.cmake").exists():
        raise Missing(f"{CPP}: needs cmake and a CMake build in build/")
    source = HERE / "cpp_trainer"
    for command in (
        ["--install", build, "--prefix", out / "installed"],
        ["-S", source, "-B", out, f"-DCMAKE_PREFIX_PATH={out / 'installed'}", "-DCMAKE_BUILD_TYPE=Release"],
        ["--build", out],
    ):
        done = subprocess.run(["cmake", *map(str, command)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
    return out / "trainer"


def start(name: str, folder: Path, options: argparse.Namespace) -> Worker:
    worker = str(HERE / "artifacts_worker.py")
    if name == CPP:
        return Worker(name, [str(build_cpp())], folder)
    python = str(options.peer or environment()) if name == ORT else sys.executable
    return Worker(name, [python, worker, NAMES[name]], folder)


def measure(case: Case, options: argparse.Namespace) -> list[dict[str, Any]]:
    workers: dict[str, Worker] = {}
    taken: dict[str, list[float]] = {}
    bounds = next(found for start, found in BOUNDS.items() if case.name.startswith(start))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        prepare(case, folder)
        try:
            for name in (name for name, short in NAMES.items() if short not in options.without):
                try:
                    workers[name] = start(name, folder, options)
                except Missing as error:
                    print(f"left out: {error}", flush=True)
            losses = {name: worker.run(CHECKED)[1] for name, worker in workers.items()}
            if not np.allclose(list(losses.values()), losses[PYTHON], rtol=1e-3):
                raise SystemExit(f"{case.name}: losses after {CHECKED} steps differ, nothing to measure: {losses}")
            calls = {}
            for name, worker in workers.items():
                calls[name], taken[name] = worker.steps_for(options.seconds), []
            for _ in range(options.repetitions):
                for name, worker in workers.items():
                    taken[name].append(1e6 * worker.run(calls[name])[0] / calls[name])
        finally:
            for worker in workers.values():
                worker.close()
    rows: list[dict[str, Any]] = []
    for name, times in taken.items():
        middle = statistics.median(times)
        low, _, high = statistics.quantiles(times, n=4)
        row: dict[str, Any] = {"case": case.name, "threads": 1, "contender": name, "microseconds": middle}
        row |= {"spread": (high - low) / middle, "over": {}}
        for _, other, bound in (b for b in bounds if b[0] == name and b[1] in taken):
            least, ratio, most = statistics.quantiles((a / b for a, b in zip(times, taken[other], strict=True)), n=4)
            row["over"][other] = {"ratio": ratio, "quartiles": [least, most], "bound": bound}
        rows.append(row)
    return rows


def show(row: dict[str, Any]) -> None:
    over = ""
    for other, found in row["over"].items():
        (least, most), bound = found["quartiles"], found["bound"]
        verdict = "" if found["ratio"] <= bound else ": MISSED" if least > bound else ": within the spread"
        over += f"  / {other} {found['ratio']:.3f} ({least:.3f} to {most:.3f}, at most {bound:g}{verdict})"
    print(f"{row['case']:34}{row['contender']:30}{row['microseconds']:10.1f} us {100 * row['spread']:3.0f}%{over}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="interpreter with onnxruntime-training-cpu 1.19.2; default: .venv-peers, made when missing")
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--without", nargs="*", default=[], choices=list(NAMES.values()), help="contenders to leave out")
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.25, help="of a slice")
    parser.add_argument("--no-record", action="store_true", help="do not append to benchmarks/results")
    options = parser.parse_args()
    print(machine())
    rows = []
    for case in CASES:
        if options.only in case.name and any(case.name.startswith(start) for start in BOUNDS):
            found = measure(case, options)
            rows += found
            for row in found:
                show(row)
    if rows and not options.no_record:
        print(f"appended to benchmarks/results/{append('artifacts', rows).name}")


if __name__ == "__main__":
    main()
