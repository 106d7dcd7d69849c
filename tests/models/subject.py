"""The network of an export as an ortmod module, with its parameters under their ONNX names."""

from __future__ import annotations

import torch
import truth
import zoo

import ortmod


def trained(module: ortmod.OnnxModule) -> dict[str, torch.nn.Parameter]:
    """ONNX name -> parameter, of those that train."""
    found = dict(module.named_parameters())
    named = {onnx_name: found.get(name) for onnx_name, name in module.torch_names.items()}
    return {n: p for n, p in named.items() if p is not None and p.requires_grad}


class Subject:
    def __init__(self, export: zoo.Export) -> None:
        self.export, self.proto = export, export.proto()
        self.net = truth.twin(export)
        self.copies = truth.copies(self.proto, self.net)
        self.inputs = [i.name for i in self.proto.graph.input]
        names = [c.initializer for copies in self.copies.values() for c in copies]
        by_rule = not export.mode.startswith("ts")  # TorchScript files do not say what a parameter is
        self.module = ortmod.OnnxModule(str(export.path), trainable=None if by_rule else names).eval()

    def feed(self, batch: int = 2, seq: int = 7) -> dict[str, torch.Tensor]:
        return zoo.inputs(self.export.family, self.export.dtype, batch, seq)

    def __call__(self, feed: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.module(**{k: v for k, v in feed.items() if k in self.inputs})

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return trained(self.module)

    def gradients(self) -> dict[str, torch.Tensor]:
        return self.collect({n: p.grad for n, p in self.parameters().items() if p.grad is not None})

    def collect(self, mine: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Per torch parameter the sum over the initializers that hold it, if all of them are trained."""
        found = {}
        for name, copies in self.copies.items():
            parts = [c.as_parameter(mine[c.initializer]) for c in copies if c.initializer in mine]
            if len(parts) == len(copies) and parts:
                found[name] = torch.stack(parts).sum(0)
        return found

    def tolerance(self, kind: str) -> float:
        """Of the largest entry; `kind` is forward or gradient."""
        if self.export.dtype == "float32":
            return {"forward": 2e-5, "gradient": 2e-4}[kind]
        inside = truth.computes_in_float32(self.proto)
        return {"forward": 2e-6, "gradient": 2e-6}[kind] if inside else {"forward": 1e-9, "gradient": 1e-8}[kind]
