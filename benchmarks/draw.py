"""Draws the last results of training.py: bar charts beside them, and tables between the marks of README.md here and above.

Marks are lines `<!-- training table -->` and `<!-- training summary -->`, each with an `<!-- end -->` after it.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from record import HERE

Row = dict[str, Any]
CHARTS = {
    "training_steps": ("microseconds", "Microseconds of a training step"),
    "training_fits": ("short_ms", "Milliseconds of a fit to the same validation loss"),
}


def number(value: float | None) -> str:
    """Three digits; nothing for what was not measured."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def cases(rows: Sequence[Row]) -> dict[str, dict[str, dict[int, Row]]]:
    """case -> contender -> threads -> row, in the order of the results."""
    found: dict[str, dict[str, dict[int, Row]]] = {}
    for row in rows:
        found.setdefault(row["case"], {}).setdefault(row["contender"], {})[row["threads"]] = row
    return found


def facts(run: dict[str, Any]) -> str:
    machine = ", ".join(f"{key} {value}" for key, value in run["machine"].items())
    return f"{run['date'][:10]}; {machine}."


def verdict(row: Row) -> str:
    if row["contender"] == "ortmod":
        return ""
    text = number(row["ratio"])
    return f"**{text}**, at most {row['bound']}: missed" if missed(row) else f"**{text}**" if row["bound"] else text


def missed(row: Row) -> bool:
    return row["bound"] is not None and not 0 < row["ratio"] <= row["bound"]


def table(run: dict[str, Any]) -> str:
    """Every case and contender; for each number of threads the time of a step, the fixed part of a fit, the time to the loss."""
    threads = sorted({row["threads"] for row in run["rows"]})
    head = ["work", "contender", "at most"]
    for n in threads:
        head += [f"us a step, {n} thr.", "ours / this", "fixed ms", "ms to the loss"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for case, contenders in cases(run["rows"]).items():
        for i, (name, by_threads) in enumerate(contenders.items()):
            cells = [case if i == 0 else "", name, number(next(iter(by_threads.values()))["bound"])]
            for n in threads:
                row = by_threads.get(n)
                reach = row["short_ms"] if row and row["epochs"] else None
                cells += ["", "", "", ""] if row is None else [
                    number(row["microseconds"]), verdict(row), number(row["fixed_ms"]), number(reach)
                ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    pictures = [f"![{title}](results/{name}.png)" for name, (_, title) in CHARTS.items()]
    return "\n".join([facts(run), "", *lines, "", *pictures])


def summary(run: dict[str, Any]) -> str:
    """One line for each row of a suite: our step and each peer's, on the fewest threads."""
    fewest = min(row["threads"] for row in run["rows"])
    lines = [f"| a training step, {fewest} thread{'s' * (fewest > 1)} | ortmod | peers |", "|---|---|---|"]
    for case, contenders in cases([row for row in run["rows"] if row["case"] == row["group"]]).items():
        times = {name: by[fewest]["microseconds"] for name, by in contenders.items() if fewest in by}
        says = {name: f"{number(us)} us" if us < 1000 else f"{number(us / 1000)} ms" for name, us in times.items()}
        others = ", ".join(f"{name} {text}" for name, text in says.items() if name != "ortmod")
        lines.append(f"| {case} | {says['ortmod']} | {others} |")
    return "\n".join([*lines, "", facts(run)])


def charts(run: dict[str, Any], key: str, title: str, path: Path) -> None:
    """A panel for each row of a suite, a bar for each contender and number of threads."""
    rows = [row for row in run["rows"] if row["case"] == row["group"] and (key == "microseconds" or row["epochs"])]
    found = cases([row for row in rows if row[key] > 0])
    threads = sorted({row["threads"] for row in rows})
    columns = min(3, len(found))
    lines = -(-len(found) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(5.2 * columns, 2.5 * lines), layout="constrained", squeeze=False)
    for axis in axes.flat[len(found) :]:
        axis.axis("off")
    for axis, (case, contenders) in zip(axes.flat, found.items(), strict=False):
        names, height = list(contenders), 0.8 / len(threads)
        for t, n in enumerate(threads):
            for i, name in enumerate(names):
                if n not in contenders[name]:
                    continue
                value, where = contenders[name][n][key], i + (t - (len(threads) - 1) / 2) * height
                label = f"{n} thread{'s' * (n > 1)}" if name == "ortmod" else None
                color = ("C1", "C0")[name == "ortmod"]
                axis.barh(where, value, 0.9 * height, color=color, alpha=1 - 0.5 * t / len(threads), label=label)
                axis.text(value, where, f" {number(value)}", va="center", fontsize=7)
        axis.set_yticks(range(len(names)), names, fontsize=8)
        axis.set_title(case, fontsize=9)
        values = [row[key] for by_threads in contenders.values() for row in by_threads.values()]
        if max(values) > 20 * min(values):
            axis.set_xscale("log")
            axis.set_xlim(min(values) / 3, max(values) * 4)
        else:
            axis.set_xlim(0, max(values) * 1.15)
        axis.invert_yaxis()
        axis.grid(alpha=0.3, axis="x")
    axes.flat[0].legend(fontsize=7)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def fill(path: Path, mark: str, text: str) -> bool:
    """Writes the text between the marks of a file, if it has them."""
    old = path.read_text() if path.exists() else ""
    pattern = re.compile(rf"(<!-- training {mark} -->\n).*?(<!-- end -->)", re.DOTALL)
    new = pattern.sub(lambda m: f"{m[1]}{text}\n{m[2]}", old)
    if new != old:
        path.write_text(new)
    return bool(pattern.search(old))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results" / "training.jsonl")
    parser.add_argument("--run", type=int, default=-1, help="which line of the results")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--readme", type=Path, nargs="*", default=[HERE / "README.md", HERE.parent / "README.md"])
    options = parser.parse_args(arguments)
    run = json.loads(options.results.read_text().splitlines()[options.run])
    for name, (key, title) in CHARTS.items():
        charts(run, key, title, options.out / f"{name}.png")
    written = table(run)
    for path in options.readme:
        for mark, text in (("table", written), ("summary", summary(run))):
            if fill(path, mark, text):
                print(f"{path.name}: {mark}")
    losses = [
        f"{row['case']}, {row['threads']} threads: {number(row['ratio'])} of {row['contender']}"
        for row in run["rows"]
        if missed(row)
    ]
    late = [
        f"{row['case']}: {row['fixed_ms']:.1f} ms" for row in run["rows"] if row["contender"] == "ortmod" and row["fixed_ms"] > 5
    ]
    print("bounds missed: " + ("; ".join(losses) or "none"))
    print("fixed cost of a fit above 5 ms: " + ("; ".join(late) or "none"))


if __name__ == "__main__":
    main()
