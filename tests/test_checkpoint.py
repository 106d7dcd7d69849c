"""Checkpoints: what is written is read; kills while saving; damaged files; files of onnxruntime-training 1.19.2."""

import json
import os
import random
import signal
import struct
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from nets import mlp
from ort_training_1_19_2.record import RATE, network
from stock import StockTrainer

from ortmod import ModelError
from ortmod.training import checkpoint, onnxblock
from ortmod.training.artifacts import LossType, generate_artifacts

RECORDED = Path(__file__).parent / "ort_training_1_19_2"
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool]


def state_of(step=3):
    parameters = {f"w.{d}": torch.arange(6).reshape(2, 3).to(d) for d in DTYPES}
    parameters |= {"scalar": torch.tensor(2.5), "empty": torch.empty(0, 4), "Ünicode/α": torch.ones(2)}
    moments = {"first_order_moments": {"scalar": torch.tensor(0.25)}, "second_order_moments": {"scalar": torch.tensor(0.5)}}
    properties = {"epoch": 3, "best": 0.1, "huge": float("inf"), "note": 'a "quoted" text', "negative": -(2**60)}
    return checkpoint.State(parameters, ["scalar", "w.torch.float32"], properties, moments, step, 1e-3)


def same(a, b):
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert value.dtype == b[name].dtype and value.shape == b[name].shape and torch.equal(value, b[name]), name


def test_what_is_saved_is_loaded(tmp_path):
    state = state_of()
    checkpoint.save(state, tmp_path / "c")
    found = checkpoint.load(tmp_path / "c")
    same(state.parameters, found.parameters)
    assert found.properties == state.properties and found.trainable == state.trainable
    assert {k: type(v) for k, v in found.properties.items()} == {k: type(v) for k, v in state.properties.items()}
    assert (found.step, found.learning_rate) == (3, 1e-3)
    for kind, values in state.optimizer.items():
        same(values, found.optimizer[kind])
    checkpoint.save(state, tmp_path / "c", optimizer=False)
    assert checkpoint.load(tmp_path / "c").optimizer == {}


def test_any_tool_opens_it(tmp_path):
    state = state_of()
    checkpoint.save(state, tmp_path / "c")
    opened = safetensors.torch.load_file(tmp_path / "c")
    same(state.parameters, {name: value for name, value in opened.items() if not name.startswith("optimizer.")})
    assert torch.equal(opened["optimizer.first_order_moments/scalar"], torch.tensor(0.25))
    with safetensors.safe_open(tmp_path / "c", "pt") as file:
        assert json.loads(file.metadata()["ortmod.checkpoint"])["trainable"] == state.trainable
    safetensors.torch.save_file({"a": torch.ones(3)}, tmp_path / "theirs")
    same(checkpoint.load(tmp_path / "theirs").parameters, {"a": torch.ones(3)})


def test_names_do_not_collide(tmp_path):
    name = "optimizer.m/a"
    state = checkpoint.State({"a": torch.zeros(1), name: torch.ones(1)}, ["a"], {}, {"m": {"a": torch.full((1,), 2.0)}}, 1)
    checkpoint.save(state, tmp_path / "c")
    found = checkpoint.load(tmp_path / "c")
    same(found.parameters, state.parameters)
    same(found.optimizer["m"], state.optimizer["m"])


def test_a_nominal_checkpoint_has_types_without_values(tmp_path):
    state = checkpoint.State({"w": torch.ones(1000, 1000), "b": torch.ones(5, dtype=torch.float64)}, ["w"])
    checkpoint.save(state, tmp_path / "c", nominal=True)
    assert (tmp_path / "c").stat().st_size < 1000
    found = checkpoint.load(tmp_path / "c")
    assert found.nominal and found.trainable == ["w"]
    assert {n: (v.dtype, tuple(v.shape)) for n, v in found.parameters.items()} == {
        "w": (torch.float32, (1000, 1000)),
        "b": (torch.float64, (5,)),
    }


def test_two_hundred_kills_leave_two_hundred_whole_states(tmp_path):
    def state(step):
        return checkpoint.State({f"w{i}": torch.full((100_000,), float(step)) for i in range(5)}, ["w0"], {"step": step}, {}, step)

    path, draw, seen = tmp_path / "c", random.Random(0), set()
    checkpoint.save(state(1), path)
    last = 1
    for _ in range(200):
        states = [state(last + 1), state(last + 2)]
        child = os.fork()
        if child == 0:
            try:
                while True:
                    for one in states:
                        checkpoint.save(one, path)
            finally:
                os._exit(1)
        time.sleep(draw.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = checkpoint.load(path)
        assert found.step in (last, last + 1, last + 2) and found.properties == {"step": found.step}
        assert all(bool((value == found.step).all()) for value in found.parameters.values())
        seen.add(found.step != last)
        last = found.step
    assert seen == {True, False}
    checkpoint.save(state(last), path)
    assert os.listdir(tmp_path) == ["c"]


def test_a_failing_save_leaves_the_old_file(tmp_path):
    checkpoint.save(state_of(), tmp_path / "c")
    before = (tmp_path / "c").read_bytes()
    with pytest.raises(TypeError, match="expected int, float or str"):
        checkpoint.save(checkpoint.State({}, [], {"bad": [1]}), tmp_path / "c")  # type: ignore[dict-item]
    with pytest.raises(ModelError, match="complex64"):
        checkpoint.save(checkpoint.State({"z": torch.ones(1, dtype=torch.complex64)}), tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == before and os.listdir(tmp_path) == ["c"]


def header(text, data=b""):
    text = json.dumps(text).encode() if not isinstance(text, bytes) else text
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "not a checkpoint"),
        (b"hello, this is some text", "not a checkpoint"),
        (header(b"{]"), "cannot be read"),
        (header({"w": {"dtype": "F32", "shape": [2]}}), "cannot be read"),
        (header({"w": {"dtype": "Q4", "shape": [2], "data_offsets": [0, 8]}}, b"12345678"), "cannot be read"),
        (header({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234"), "cut short"),
        (header({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, b"12345678"), "does not fit"),
        (header({"w": {"dtype": "F32", "shape": [-2], "data_offsets": [8, 0]}}, b"12345678"), "does not fit"),
        (header({"w": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}, b"12345678"), "does not fit"),
        (b"\x10\x00\x00\x00ODTC" + b"\xff" * 40, "damaged"),
        (b"\xff\xff\x00\x00ODTC", "damaged"),
    ],
)
def test_damaged_files_are_refused(tmp_path, content, message):
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        checkpoint.load(tmp_path / "c")


def test_every_cut_of_a_recorded_file_is_refused_or_whole(tmp_path):
    whole = (RECORDED / "checkpoint").read_bytes()
    refused = 0
    for length in range(9, len(whole), 997):
        (tmp_path / "c").write_bytes(whole[:length])
        try:
            checkpoint.load(tmp_path / "c")
        except ModelError:
            refused += 1
    assert refused > 10


def test_checkpoints_of_onnxruntime_training_are_read():
    state = checkpoint.load(RECORDED / "checkpoint")
    sums = json.loads((RECORDED / "losses.json").read_text())["sums"]
    assert {name: pytest.approx(float(value.double().sum()), rel=1e-9) for name, value in state.parameters.items()} == sums
    assert state.parameters["first.weight"].shape == (20, 100)
    assert sorted(state.trainable) == ["first.bias", "first.weight", "y.weight"]
    assert state.properties == {"epoch": 7, "rate": 0.5, "note": "half way"} and state.step == 20
    assert {kind: sorted(values) for kind, values in state.optimizer.items()} == {
        kind: sorted(state.trainable) for kind in ("first_order_moments", "second_order_moments")
    }
    nominal = checkpoint.load(RECORDED / "nominal_checkpoint")
    assert nominal.nominal and sorted(nominal.parameters) == sorted(sums)


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_the_losses_are_those_of_onnxruntime_training(tmp_path, kind):
    model, x, labels, names = network(kind)
    optimizer = onnxblock.optim.AdamW(form="ort")
    generate_artifacts(model, names[:-1], names[-1:], LossType.CrossEntropyLoss, optimizer, tmp_path)
    trainer = StockTrainer(tmp_path)
    losses = [trainer.fit_step(RATE, x=x, labels=labels) for _ in range(20)]
    np.testing.assert_allclose(losses, json.loads((RECORDED / "losses.json").read_text())[kind], rtol=1e-5)
    if kind == "mlp":
        recorded = checkpoint.load(RECORDED / "checkpoint").parameters
        for name in names:
            np.testing.assert_allclose(trainer.parameters[name], recorded[name].numpy(), atol=1e-5)


def test_a_checkpoint_goes_back_into_a_model(tmp_path):
    _, model = mlp((4, 3))
    tensors = [onnx.numpy_helper.from_array(np.full(d.dims, 7, np.float32), d.name) for d in model.graph.initializer]
    onnxblock.save_checkpoint((tensors[:1], tensors[1:]), tmp_path / "c")
    assert checkpoint.load(tmp_path / "c").trainable == ["0.weight"]
    onnxblock.load_checkpoint_to_model(tmp_path / "c", model)
    assert all((onnx.numpy_helper.to_array(t) == 7).all() for t in model.graph.initializer)
    with pytest.raises(RuntimeError, match="No checkpoint parameters"):
        onnxblock.save_checkpoint(None, tmp_path / "c")
    with pytest.raises(ModelError, match="0.weight"):
        onnxblock.load_checkpoint_to_model(tmp_path / "c", mlp((5, 3))[1])
