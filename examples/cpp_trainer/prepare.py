"""Writes what cpp_trainer needs: training artifacts of a small network, and the digits data as CSV."""

import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

from ortmod.training.artifacts import LossType, OptimType, generate_artifacts


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    program = torch.onnx.export(
        network,
        (torch.randn(2, 64),),
        dynamo=True,
        optimize=False,
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        input_names=["pixels"],
        output_names=["scores"],
        verbose=False,
    )
    assert program is not None
    report = generate_artifacts(
        program.model_proto,
        loss=LossType.CrossEntropyLoss,
        optimizer=OptimType.AdamW,
        artifact_directory=folder,
        additional_output_names=["scores"],
    )
    print(report)
    pixels, labels = load_digits(return_X_y=True)
    np.savetxt(folder / "digits.csv", np.c_[labels, pixels / 16], delimiter=",", fmt="%g")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "artifacts"))
