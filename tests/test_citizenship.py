"""Activation checkpointing, saved-tensor hooks, and training on two ranks, as for torch's own layers."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import nets
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import ortmod

WIDTH, ROWS, LAYERS = 64, 128, 12


def block_pair():
    network, model = nets.mlp((WIDTH, 4 * WIDTH, WIDTH))
    return network, ortmod.OnnxModule(model)


class Stack(nn.Module):
    def __init__(self, blocks, checkpointed):
        super().__init__()
        self.blocks, self.checkpointed = nn.ModuleList(blocks), checkpointed

    def forward(self, x):
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpointed else block(x)
        return x


def bytes_held(model, x):
    """Bytes of distinct storages that the graph of a forward holds, besides parameters and the input."""
    kept = {}

    def pack(t):
        storage = t.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return t

    known = {p.untyped_storage().data_ptr() for p in [*model.parameters(), x]}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = model(x)
    y.sum().backward()
    return sum(n for pointer, n in kept.items() if pointer not in known)


def profiled_peak(model, x):
    """Peak of the bytes that torch's CPU allocator gave out and did not get back, over forward and backward."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        model(x).sum().backward()
    held = peak = 0
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_stack_of_layers_takes_the_memory_of_torchs(checkpointed):
    pairs = [block_pair() for _ in range(LAYERS)]
    peaks = []
    for blocks in zip(*pairs, strict=True):
        model = Stack(blocks, checkpointed)
        x = torch.randn(ROWS, WIDTH, requires_grad=True)
        model(x).sum().backward()  # plans, gradients
        peaks.append(profiled_peak(model, x))
    assert peaks[1] <= 1.10 * peaks[0], peaks
    if checkpointed:
        activations = LAYERS * ROWS * 4 * WIDTH * 4
        assert peaks[1] < activations, (peaks, activations)


def test_hooks_see_every_kept_byte():
    network, layer = block_pair()
    x = torch.randn(ROWS, WIDTH, requires_grad=True)
    hidden = ROWS * 4 * WIDTH * 4  # tanh's result is all that backward needs besides x and the weights
    held = bytes_held(layer, x)
    assert hidden <= held <= 1.10 * bytes_held(network, x)


def test_values_moved_by_hooks_are_used():
    network, layer = block_pair()
    x = torch.randn(ROWS, WIDTH, requires_grad=True)
    expected = torch.autograd.grad(layer(x).square().sum(), [x, *layer.parameters()])
    with torch.autograd.graph.save_on_cpu():
        moved = torch.autograd.grad(layer(x).square().sum(), [x, *layer.parameters()])
    for a, b in zip(moved, expected, strict=True):
        assert torch.equal(a, b)

    def spoil(t):
        return torch.zeros_like(t)

    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, spoil):
        spoiled = torch.autograd.grad(layer(x).square().sum(), [x, *layer.parameters()])
    assert not spoiled[0].any()  # nothing but what the hooks returned was read


def test_checkpointed_gradients_are_the_same():
    for use_reentrant in (False, True):
        _, layer = block_pair()
        x = torch.randn(ROWS, WIDTH, requires_grad=True)
        plain = torch.autograd.grad(layer(x).sum(), [x, *layer.parameters()])
        if use_reentrant:
            x.grad = None
            checkpoint(layer, x, use_reentrant=True).sum().backward()
            found = [x.grad, *(p.grad for p in layer.parameters())]
        else:
            found = torch.autograd.grad(checkpoint(layer, x, use_reentrant=False).sum(), [x, *layer.parameters()])
        for a, b in zip(found, plain, strict=True):
            assert torch.equal(a, b)


RANKS = """
import os, sys
import torch
import torch.distributed as dist
from torch import nn
sys.path.insert(0, os.environ["TESTS"])
import nets
import ortmod

torch.manual_seed(0)
torch.set_num_threads(1)
network, model = nets.mlp((6, 8, 3), torch.float64)
layer = ortmod.OnnxModule(model)
single = ortmod.OnnxModule(model)
data = torch.randn(8, 6, dtype=torch.float64)
single(data).square().sum(1).mean().backward()
dist.init_process_group("gloo")
rank = dist.get_rank()
mine = data[4 * rank : 4 * rank + 4]
if sys.argv[1] == "ddp":
    wrapped = nn.parallel.DistributedDataParallel(layer)
else:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    wrapped = fully_shard(layer, mesh=init_device_mesh("cpu", (2,)))
wrapped(mine).square().sum(1).mean().backward()
for (name, p), q in zip(layer.named_parameters(), single.parameters()):
    grad = p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad
    assert torch.allclose(grad, q.grad, rtol=1e-12, atol=1e-14), (name, grad, q.grad)
dist.barrier()
print("equal", flush=True)
os._exit(0)  # gloo's threads may abort while the interpreter is torn down
"""


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_ranks_give_the_gradients_of_one(kind, tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    tests = Path(__file__).parent
    environment = {**os.environ, "TESTS": str(tests), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    environment["PYTHONPATH"] = os.pathsep.join([str(tests.parent), os.environ.get("PYTHONPATH", "")])
    processes = [
        subprocess.Popen(
            [sys.executable, script, kind],
            env={**environment, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        said, _ = process.communicate(timeout=240)
        assert process.returncode == 0 and "equal" in said, said
