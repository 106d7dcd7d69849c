"""ORTModule(net) beside the net itself: the same torch code trains both, by full batches and by mini-batches.

The wrapped network is exported to ONNX and run and differentiated by ortmod; its parameters are the network's own. Losses must
agree step by step. Writes ortmodule_training.png.
"""

import argparse
import copy
import statistics
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from ortmod import ORTModule


def train(model, X, y, batch, epochs):
    """The usual loop; losses of the steps and median microseconds of one."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses, seconds = [], []
    for _ in range(epochs):
        for first in range(0, len(X), batch):
            begin = time.perf_counter()
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(X[first : first + batch]), y[first : first + batch])
            loss.backward()
            optimizer.step()
            seconds.append(time.perf_counter() - begin)
            losses.append(loss.item())
    return losses, 1e6 * statistics.median(seconds)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)

    torch.manual_seed(0)
    X = torch.randn(1000, 10)
    y = (X[:, :1] * X[:, 1:2]).tanh() + X[:, 2:3] / 2
    start = nn.Sequential(nn.Linear(10, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 16), nn.GELU(), nn.Linear(16, 1))
    found, epochs = {}, {"full batch": 10 * options.epochs, "mini-batches of 25": options.epochs}
    for kind, batch in zip(epochs, (len(X), 25), strict=True):
        ours, theirs = ORTModule(copy.deepcopy(start)), copy.deepcopy(start)
        ours(X[:2])  # exports and plans
        (losses, taken), (expected, eager) = (train(model, X, y, batch, epochs[kind]) for model in (ours, theirs))
        difference = max(abs(a - b) / b for a, b in zip(losses, expected, strict=True))
        found[kind] = losses, expected, taken, eager, difference
        print(
            f"{kind:20} {len(losses)} steps, loss {losses[0]:.3f} -> {losses[-1]:.4f}, at most {difference:.1e} from torch's, "
            f"{taken:.0f} us a step against {eager:.0f} us"
        )
    plot(found, epochs, options.out / "ortmodule_training.png")
    return found


def plot(found, epochs, path):
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, (kind, (losses, expected, taken, eager, _)) in zip(axes, found.items(), strict=True):
        ours, theirs = (np.reshape(steps, (epochs[kind], -1)).mean(axis=1) for steps in (losses, expected))
        axis.semilogy(ours, linewidth=4, alpha=0.4, label=f"ORTModule(net), {taken:.0f} us a step")
        axis.semilogy(theirs, "k", linewidth=0.8, label=f"net, {eager:.0f} us a step")
        axis.set(title=kind, xlabel="epoch", ylabel="mean squared error")
        axis.legend()
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
