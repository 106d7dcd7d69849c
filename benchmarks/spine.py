"""Measures an ONNX layer inside torch against torch eager: small and larger networks, new sizes, memory, building."""

import argparse
import multiprocessing
import os
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import onnx
import torch
from measure import interleaved
from models import CASES, Case, chain, chain_weights, export
from record import append, machine, resident_kib

import ortmod

TRANSFORMER = next(case for case in CASES if "transformer" in case.name)


def close(ours: torch.Tensor, theirs: torch.Tensor, what: str) -> None:
    ours, theirs = ours.detach(), theirs.detach()
    error = float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-30))
    if not error < 1e-3:
        raise SystemExit(f"{what} differs from torch eager by {error:.1e} of its largest entry: nothing to measure")


def pair(case: Case) -> dict[str, torch.nn.Module]:
    """torch eager and the ONNX layer of the same network, checked to give the same output and gradients."""
    torch.manual_seed(0)
    eager = case.module()
    modules = {"torch eager": eager, "ortmod": ortmod.OnnxModule(export(case, eager))}
    x = case.inputs(*case.sizes)
    outputs = {name: module(x) for name, module in modules.items()}
    close(outputs["ortmod"], outputs["torch eager"], f"{case.name}: the output")
    dy = torch.randn_like(outputs["ortmod"])
    for y in outputs.values():
        y.backward(dy)
    ours = dict(modules["ortmod"].named_parameters())
    for name, weight in eager.named_parameters():
        grad = ours[name].grad
        assert grad is not None and weight.grad is not None, name
        close(grad, weight.grad, f"{case.name}: the gradient of {name}")
    return modules


def forward_backward(module: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> Callable[[], None]:
    """A call of the layer and its backward, the output's gradient being given: no loss, no update."""
    weights = list(module.parameters()) if isinstance(module, torch.nn.Module) else []
    dy = torch.randn_like(module(x))

    def call() -> None:
        module(x).backward(dy)
        for weight in weights:
            weight.grad = None

    return call


def training_step(module: torch.nn.Module, x: torch.Tensor) -> Callable[[], None]:
    """Loss, backward and SGD around the layer, as a user writes them."""
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-6)
    target = torch.randn_like(module(x))

    def call() -> None:
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(module(x), target).backward()
        optimizer.step()

    return call


def empty_function(case: Case) -> Callable[[torch.Tensor], torch.Tensor]:
    """What torch alone costs: a C++ autograd Function with the layer's arguments, result and gradients, none computed."""
    module = case.module()
    weights = [weight.detach().requires_grad_() for weight in module.parameters()]
    shape = tuple(module(case.inputs(*case.sizes)).shape)

    def call(x: torch.Tensor) -> torch.Tensor:
        return ortmod._C.empty_function(shape, *weights, x)

    return call


def measure_steps(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for case in CASES:
        if options.only not in case.name:
            continue
        modules = pair(case)
        x = case.inputs(*case.sizes)
        kinds: dict[str, Callable[[Any, torch.Tensor], Callable[[], None]]] = {
            "forward + backward": forward_backward,
            "training step": training_step,
        }
        for threads in options.threads:
            torch.set_num_threads(threads)
            for kind, make in kinds.items():
                contenders = {name: make(module, x) for name, module in modules.items()}
                if kind == "forward + backward":
                    contenders["empty C++ Function"] = forward_backward(empty_function(case), x)
                for name, timing in interleaved(contenders, options.repetitions, options.seconds).items():
                    row = {"case": case.name, "what": kind, "threads": threads, "contender": name, **vars(timing)}
                    rows.append(row)
                    show(row)
    return rows


def show(row: dict[str, Any]) -> None:
    print(
        f"{row['case']:34}{row['what']:20}{row['threads']:>2} threads  {row['contender']:20}"
        f"{row['microseconds']:>12.1f} us {100 * row['spread']:>5.1f}%  {row['ratio']:>6.2f}x",
        flush=True,
    )


def measure_sizes(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The transformer over 200 different (batch, length): a step when the size is new, and when it is the size of the last step."""
    everything = [(batch, length) for batch in range(1, 17) for length in range(8, 72)]
    sizes = random.Random(0).sample(everything, 200)
    rows = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        for name, module in pair(TRANSFORMER).items():
            changed, ratios = [], []
            for size in sizes:
                x = TRANSFORMER.inputs(*size)
                taken = []
                for _ in range(6):
                    begin = time.perf_counter()
                    y = module(x)
                    y.backward(torch.ones_like(y))
                    taken.append(time.perf_counter() - begin)
                changed.append(taken[0])
                ratios.append(taken[0] / statistics.median(taken[1:]))
            row = {"case": TRANSFORMER.name, "what": "200 new sizes", "threads": threads, "contender": name}
            rows.append({**row, "microseconds": 1e6 * statistics.median(changed), "of_fixed_size": statistics.median(ratios)})
            ratio = rows[-1]["of_fixed_size"]
            print(f"{TRANSFORMER.name:34}200 new sizes  {threads:>2} threads  {name:20} {ratio:.2f} x fixed", flush=True)
    return rows


def measure_memory(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Resident memory over 10,000 training steps after 1,000 to warm up; the transformer's sizes change from step to step."""
    rows = []
    for case, sizes in (
        (CASES[0], [CASES[0].sizes]),
        (CASES[1], [CASES[1].sizes]),
        (TRANSFORMER, random.Random(0).sample([(batch, length) for batch in range(1, 9) for length in range(4, 36)], 200)),
    ):
        modules = pair(case)
        steps = [training_step(modules["ortmod"], case.inputs(*size)) for size in sizes]
        for i in range(1_000):
            steps[i % len(steps)]()
        before = resident_kib()
        for i in range(10_000):
            steps[i % len(steps)]()
        growth = resident_kib() - before
        rows.append({"case": case.name, "what": f"10,000 training steps of {len(sizes)} sizes", "growth_kib": growth})
        print(f"{case.name:34}10,000 training steps: resident memory grows by {growth} KiB of {before}", flush=True)
    return rows


def building_times(nodes: int) -> dict[str, float]:
    """Seconds for the gradient model of a chain, and for a layer of it until its first backward is done; in a new process."""
    if nodes > 100:
        building_times(100)  # code and tables are loaded
    model = chain(nodes)
    times = [time.perf_counter()]
    ortmod.build_gradient(model, wrt=[f"w{i}" for i in range(chain_weights(nodes))])
    times.append(time.perf_counter())
    module = ortmod.OnnxModule(model, trainable="w*")
    times.append(time.perf_counter())
    for _ in range(2):
        module(torch.ones(2, 16)).sum().backward()
        times.append(time.perf_counter())
    gradient, imported, first, second = (b - a for a, b in zip(times[:-1], times[1:], strict=True))
    ready = imported + first
    return {"gradient_s": gradient, "import_s": imported, "first_call_s": first, "second_call_s": second, "ready_s": ready}


def measure_building(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Chains of nodes: writing the gradient model; import, gradient and plan of a layer; growth over ten times fewer nodes.

    Each run is a process of its own, as a model is built once: later ones would find memory that is mapped and cached.
    """
    rows: list[dict[str, Any]] = []
    for nodes in (1_000, 10_000, 100_000):
        if rows and rows[-1]["ready_s"] + rows[-1]["gradient_s"] > 30:
            print(f"chain of {nodes}: left out, the smaller one already takes too long")
            break
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as processes:
            runs = processes.map(building_times, [nodes] * (5 if nodes < 100_000 else 1), chunksize=1)
        row: dict[str, Any] = {"case": f"chain of {nodes} nodes", "weights": chain_weights(nodes)}
        row.update({what: statistics.median(run[what] for run in runs) for what in runs[0]})
        if rows:
            row.update({f"{what}_growth": row[what] / rows[-1][what] for what in ("gradient_s", "ready_s")})
        rows.append(row)
        growth = [f" ({row[key]:.1f}x)" if key in row else "" for key in ("gradient_s_growth", "ready_s_growth")]
        print(
            f"chain of {nodes:>7} nodes: build_gradient {row['gradient_s']:.3f} s{growth[0]}, "
            f"import + gradient + plan {row['ready_s']:.3f} s{growth[1]}: import {row['import_s']:.3f} s, "
            f"first forward + backward {row['first_call_s']:.3f} s, second {row['second_call_s']:.4f} s",
            flush=True,
        )
    return rows


def measure_list(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The loop over steps alone: chains of scalar additions, not fused."""
    torch.set_num_threads(1)
    os.environ["ORTMOD_DISABLE"] = "fuse_pointwise"
    rows = []
    for nodes in (100, 200):
        lines = [f"{'y' if i == nodes - 1 else f't{i}'} = Add({f't{i - 1}' if i else 'x'}, w)" for i in range(nodes)]
        text = '<ir_version: 8, opset_import: ["": 17]> g (float[] x, float[] w) => (float[] y) {' + "\n".join(lines) + "}"
        run = ortmod._C.Executable(ortmod._C.Model.from_bytes(onnx.parser.parse_model(text).SerializeToString()), [])
        args = [torch.tensor(1.0), torch.tensor(2.0)]
        steps = len(run.report(args, [], False)["steps"])
        taken = statistics.median(run.time_steps(args, [], False, 10_000) for _ in range(options.repetitions))
        rows.append({"case": f"{nodes} scalar Adds", "what": "step list", "steps": steps, "nanoseconds_an_add": taken / nodes})
        print(f"{nodes} scalar Adds in {steps} steps: {taken / nodes:.2f} ns an Add", flush=True)
    del os.environ["ORTMOD_DISABLE"]
    return rows


SUITES = {
    "list": measure_list,
    "steps": measure_steps,
    "sizes": measure_sizes,
    "memory": measure_memory,
    "building": measure_building,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", choices=SUITES, action="append", help="default: all")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.1, help="per repetition and contender")
    parser.add_argument("--no-record", action="store_true", help="do not append to benchmarks/results")
    options = parser.parse_args()
    print(machine())
    rows = [row for name in options.suite or SUITES for row in SUITES[name](options)]
    if not options.no_record:
        path = append("spine", rows)
        print(f"appended to benchmarks/results/{path.name}")


if __name__ == "__main__":
    main()
