"""The contenders of the training benchmark by name. A new one is a subclass of Peer in a file here and a line in `find`."""

from importlib import import_module

from peers.peer import Peer

_WHERE = {
    "ortmod": "ours.Ortmod",
    "SGDRegressor": "scikit.Sgd",
    "SGDClassifier": "scikit.Sgd",
    "MLPRegressor": "scikit.Mlp",
    "MLPClassifier": "scikit.Mlp",
    "torch eager": "pytorch.Eager",
    "torch fused": "pytorch.Fused",
    "torch.compile": "pytorch.Compiled",
    "GEMMs + flat AdamW": "gemms.Gemms",
    "onnxruntime-training": "ort.OnnxRuntime",
}


def find(name: str) -> type[Peer]:
    if name not in _WHERE:
        raise ValueError(f"peer: got {name!r}, expected one of {', '.join(_WHERE)}")
    module, cls = _WHERE[name].split(".")
    return getattr(import_module(f"peers.{module}"), cls)
