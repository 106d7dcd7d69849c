"""Measures training of standalone models against its peers: time of a step, of a fit apart from its steps, to a validation loss.

Suites are files in suites/, contenders files in peers/. Data, initial weights, order of batches, rate, momentum and threads are the
same for all; before anything is timed, each peer must reach the same validation loss as ortmod.
"""

import argparse
import itertools
import time
import tomllib
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measure import Fit, fixed, slopes
from peers import find
from peers.peer import Missing, Peer
from record import append, machine
from task import Task
from threadpoolctl import threadpool_limits

SUITES = Path(__file__).resolve().parent / "suites"
FIRST = "ortmod"
LONG_MS = 20.0  # a fit whose fixed part the noise of its steps would cover


def tasks(suite: str) -> Iterator[tuple[str, Task]]:
    """The rows of a suite with their variants, each with the row's name."""
    known = {f.name for f in fields(Task)}
    with (SUITES / f"{suite}.toml").open("rb") as file:
        for row in tomllib.load(file)["row"]:
            if unknown := set(row) - known:
                raise ValueError(
                    f"{suite}.toml, {row.get('name')}: unknown keys {sorted(unknown)}, expected some of {sorted(known)}"
                )
            yield row["name"], Task(**row)
            for variant in row.get("variants", []):
                yield row["name"], Task(**{**row, **variant, "name": f"{row['name']}: {variant['name']}", "variants": []})


def loss_after(peer: Peer, epochs: int) -> float:
    peer.fit(epochs)
    return peer.task.validation_loss(peer.weights())


def checked(name: str, peer: Peer, ours: Peer, target: float) -> int | None:
    """The epochs in which the peer reaches the validation loss of ours; an error where it should take the same way and does not.

    A peer that updates after each row is compared at batch 1 without a last activation; the epochs it needs are then searched.
    """
    task = peer.task
    if not peer.trains:
        return None
    if not peer.row_by_row or task.batch == 1 and not task.last:
        pair = [loss_after(peer, task.epochs), target]
    else:
        twin = replace(task, batch=1, last="", epochs=1)
        pair = [loss_after(type(contender)(twin, task_threads), 1) for contender, task_threads in ((peer, 1), (ours, 1))]
    if not abs(pair[0] - pair[1]) < 1e-3 * pair[1]:
        raise SystemExit(
            f"{task.name}: {name} comes to the validation loss {pair[0]:.6f}, ours to {pair[1]:.6f}: nothing to measure"
        )
    if not peer.row_by_row or task.batch == 1 and not task.last:
        return task.epochs
    if task.last:
        return None
    return next((epochs for epochs in range(1, 4 * task.epochs) if loss_after(peer, epochs) <= target * 1.001), None)


def measure(task: Task, threads: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    torch.set_num_threads(threads)
    peers: dict[str, Peer] = {}
    try:
        with threadpool_limits(threads):
            for name in [FIRST, *task.peers]:
                if name in options.without:
                    continue
                try:
                    peers[name] = find(name)(task, threads)
                except Missing as error:
                    print(f"left out: {error}", flush=True)
                    options.without.append(name)
            target = loss_after(peers[FIRST], task.epochs)
            reach = {name: checked(name, peer, peers[FIRST], target) for name, peer in peers.items()}
            fits = {name: Fit(peer.fit, reach[name] or task.epochs, task.steps) for name, peer in peers.items()}
            timings = slopes(fits, options.repetitions, options.seconds)
            if timings[FIRST].short_ms > LONG_MS:
                brief = find(FIRST)(replace(task, rows=task.batch + task.rows % task.batch), threads)
                other = next((name for name in peers if name != FIRST), FIRST)
                between = partial(fits[other].run, fits[other].short)
                timings[FIRST] = replace(timings[FIRST], fixed_ms=fixed(brief.fit, between, 3 * options.repetitions))
    finally:
        for peer in peers.values():
            peer.close()
    rows = []
    for name, timing in timings.items():
        row: dict[str, Any] = {"threads": threads, "contender": name, **vars(timing), "epochs": reach[name]}
        row["validation_loss"] = target if reach[name] else None
        row["bound"] = task.bounds.get(name)
        rows.append(row)
    return rows


def show(case: str, row: dict[str, Any]) -> None:
    bound = "" if row["bound"] is None else f"  at most {row['bound']:.2f}{'' if 0 < row['ratio'] <= row['bound'] else ': MISSED'}"
    reach = f"{row['short_ms']:9.2f} ms to {row['validation_loss']:.5f}" if row["epochs"] else " " * 23
    print(
        f"{case:52}{row['threads']:>2} threads  {row['contender']:21}{row['microseconds']:>10.3f} us {100 * row['spread']:>4.0f}%"
        f"{row['fixed_ms']:>8.2f} ms fixed{reach}  ours/this {row['ratio']:.3f}{bound}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = sorted(path.stem for path in SUITES.glob("*.toml"))
    parser.add_argument("--suite", choices=names, action="append", help="default: all")
    parser.add_argument("--only", default="", help="tasks whose name contains this")
    parser.add_argument("--without", nargs="*", default=[], help="peers to leave out")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.2, help="between the short and the long fit")
    parser.add_argument("--minutes", type=float, default=11.0, help="after which no other task is begun")
    parser.add_argument("--no-record", action="store_true", help="do not append to benchmarks/results")
    options = parser.parse_args()
    print(machine())
    rows: list[dict[str, Any]] = []
    chosen = [(suite, *pair) for suite in options.suite or names for pair in tasks(suite) if options.only in pair[1].name]
    end = time.monotonic() + 60 * options.minutes
    try:
        for (suite, group, task), threads in itertools.product(chosen, options.threads):
            if time.monotonic() > end:
                print(f"{task.name}, {threads} threads: left out, {options.minutes:g} minutes are over")
                continue
            for row in measure(task, threads, options):
                show(task.name, row)
                rows.append({"suite": suite, "group": group, "case": task.name, **row})
    finally:
        if rows and not options.no_record:
            path = append("training", rows)
            print(f"appended to benchmarks/results/{path.name}")


if __name__ == "__main__":
    main()
