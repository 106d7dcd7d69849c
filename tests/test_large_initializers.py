"""Large initializers of a ModelProto go to the importer beside it, not through it."""

import os

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from test_import import linear

import ortmod
from ortmod import _C
from ortmod._model import load


def large(value: np.ndarray) -> onnx.ModelProto:
    model = linear()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(value, "w"))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = len(value)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = value.shape[1]
    model.metadata_props.add(key="origin", value="here")
    model.graph.doc_string = "text"
    return model


def test_large_initializers_of_a_proto_are_taken_apart(monkeypatch):
    value = np.random.default_rng(0).normal(size=(200, 300)).astype(np.float32)
    model = large(value)
    written = model.SerializeToString()
    sizes = []
    from_bytes = _C.Model.from_bytes
    monkeypatch.setattr(
        _C.Model, "from_bytes", staticmethod(lambda data, **rest: sizes.append(len(data)) or from_bytes(data, **rest))
    )
    got = load(model)
    assert sizes[0] < 1000
    assert model.SerializeToString() == written
    model.graph.initializer[0].raw_data = bytes(value.nbytes)
    del model
    np.testing.assert_array_equal(got.weight("w").numpy(), value)
    assert got.to_bytes() == from_bytes(written).to_bytes()
    assert ("origin", "here") in got.metadata


def test_what_is_wrong_with_a_large_initializer_is_still_said():
    value = np.ones((200, 300), np.float32)
    for wrong, says in (
        (lambda t: setattr(t, "raw_data", t.raw_data[:-4]), "wrong length"),
        (lambda t: t.float_data.append(1.0), "both raw data and typed data"),
        (lambda t: t.dims.__setitem__(slice(None), [-200, -300]), "negative"),
        (lambda t: setattr(t, "name", "b"), '"b"'),
        (lambda t: setattr(t, "data_type", 99), "element type"),
    ):
        model = large(value)
        model.graph.initializer.add().CopyFrom(model.graph.initializer[0])
        model.graph.initializer[0].name = "b"
        wrong(model.graph.initializer[1])
        with pytest.raises(ortmod.ModelError, match=says):
            load(model)


def test_raw_data_handed_in_is_checked():
    model = large(np.ones((200, 300), np.float32))
    model.graph.initializer[0].ClearField("raw_data")
    data = model.SerializeToString()
    for given, says in (((1, (300, 200), bytes(240_000)), "does not fit"), ((1, (200, 300), bytes(5)), "wrong length")):
        with pytest.raises(ortmod.ModelError, match=says):
            _C.Model.from_bytes(data, given={"w": given})


@pytest.mark.skipif(not os.environ.get("ORTMOD_BIG_TESTS"), reason="takes 5 GiB of memory; ORTMOD_BIG_TESTS=1 runs it")
def test_protos_over_2_gib_are_read():
    model = large(np.zeros((1 << 20, 300), np.float32))
    second = model.graph.initializer.add()
    second.CopyFrom(model.graph.initializer[0])
    second.name = "w2"
    assert load(model).weight("w").shape == (1 << 20, 300)
