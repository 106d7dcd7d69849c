"""onnxblock: every block and loss against torch, values and gradients; forward and training models; what is refused."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from nets import mlp
from onnx import TensorProto, helper
from torch import nn

import ortmod
from ortmod import ModelError, OrtmodError
from ortmod.training import onnxblock
from ortmod.training.onnxblock import blocks, loss

F = nn.functional
CODES = {torch.float32: TensorProto.FLOAT, torch.float64: TensorProto.DOUBLE}


def identity(shapes, dtype=torch.float64, opset=17):
    """A model whose outputs y0, y1, ... are its inputs x0, x1, ..."""
    code = CODES[dtype]
    inputs = [helper.make_tensor_value_info(f"x{i}", code, shape) for i, shape in enumerate(shapes)]
    outputs = [helper.make_tensor_value_info(f"y{i}", code, shape) for i, shape in enumerate(shapes)]
    nodes = [helper.make_node("Identity", [f"x{i}"], [f"y{i}"]) for i in range(len(shapes))]
    graph = helper.make_graph(nodes, "identity", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


class Forward(onnxblock.ForwardBlock):
    def __init__(self, build):
        super().__init__()
        self._build = build

    def build(self, *names):
        return self._build(*names)


def forward(model, build):
    with onnxblock.base(model):
        block = Forward(build)
        block(*[value.name for value in model.graph.output])
    return block.to_model_proto()


def check(model, feeds, expected, wrt):
    """Value on the stock runtime; value and gradient of the built model on ours against torch, in float64."""
    (found,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {k: v.detach().numpy() for k, v in feeds.items()})
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-10, atol=1e-12)
    gradient = ortmod.build_gradient(model, wrt=wrt, training=True)
    given = {k: v.detach().numpy() for k, v in feeds.items()}
    seed = torch.randn_like(expected)
    given[gradient.graph.input[len(feeds)].name] = seed.numpy()
    results = onnxruntime.InferenceSession(gradient.SerializeToString()).run(None, given)
    for name, found in zip(wrt, results[1:], strict=True):
        (wanted,) = torch.autograd.grad(expected, feeds[name], seed, retain_graph=True)
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-9, atol=1e-12)


def leaf(*shape, low=None):
    value = torch.randn(shape, dtype=torch.float64) if low is None else torch.rand(shape, dtype=torch.float64) + low
    return value.requires_grad_()


BLOCKS = {
    "Add": (blocks.Add(), lambda a, b: a + b, 2),
    "Sub": (blocks.Sub(), lambda a, b: a - b, 2),
    "Mul": (blocks.Mul(), lambda a, b: a * b, 2),
    "Div": (blocks.Div(), lambda a, b: a / b, 2),
    "Pow": (blocks.Pow(3.0), lambda a: a**3, 1),
    "ReduceMean": (blocks.ReduceMean(), lambda a: a.mean().reshape(1, 1), 1),
    "ReduceMean, no dims": (blocks.ReduceMean(keepdims=False), lambda a: a.mean(), 1),
    "ReduceSum": (blocks.ReduceSum(), lambda a: a.sum().reshape(1, 1), 1),
    "ReduceSum, no dims": (blocks.ReduceSum(keepdims=False), lambda a: a.sum(), 1),
    "Sigmoid": (blocks.Sigmoid(), torch.sigmoid, 1),
    "Log": (blocks.Log(), torch.log, 1),
    "Neg": (blocks.Neg(), torch.neg, 1),
    "Abs": (blocks.Abs(), torch.abs, 1),
    "Clip": (blocks.Clip(0.8, 1.2), lambda a: a.clamp(0.8, 1.2), 1),
    "Clip from below": (blocks.Clip(clip_min=0.9), lambda a: a.clamp(min=0.9), 1),
    "Clip from above": (blocks.Clip(clip_max=0.9), lambda a: a.clamp(max=0.9), 1),
    "ReduceAllL2": (blocks.ReduceAllL2(), lambda a, b: (a.square().sum() + b.square().sum()).sqrt().reshape(1), 2),
    "PassThrough": (blocks.PassThrough(), lambda a: a.clone(), 1),
    "Cast": (blocks.Cast(TensorProto.DOUBLE), lambda a: a.clone(), 1),
}


@pytest.mark.parametrize("opset", [12, 13, 18, 21])
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_equal_torch(name, opset):
    block, function, count = BLOCKS[name]
    values = [leaf(3, 4, low=0.5) for _ in range(count)]
    model = forward(identity([(3, 4)] * count, opset=opset), block)
    feeds = {f"x{i}": value for i, value in enumerate(values)}
    check(model, feeds, function(*values), list(feeds))


def test_clip_before_its_bounds_were_inputs():
    model = forward(identity([(3,)], torch.float32, opset=10), blocks.Clip(0.8, 1.2))
    (found,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x0": np.array([0, 1, 2], np.float32)})
    np.testing.assert_allclose(found, [0.8, 1.0, 1.2])


def test_a_constant_has_the_type_of_the_model():
    multiply, constant = blocks.Mul(), blocks.Constant(2.5)
    for dtype in (torch.float32, torch.float64):
        model = forward(identity([(3,)], dtype), lambda y: multiply(y, constant()))
        (found,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x0": np.ones(3, str(dtype)[6:])})
        assert found.tolist() == [2.5] * 3


def test_linear_is_a_gemm_with_new_weights():
    model = forward(identity([(5, 4)]), blocks.Linear(4, 3))
    weight, bias = (torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for t in model.graph.initializer)
    assert weight.shape == (4, 3) and bias.shape == (3,) and float(weight.abs().max()) <= 0.5
    x = leaf(5, 4)
    check(model, {"x0": x}, x @ weight + bias, ["x0"])


def test_sequences_and_labels_are_made():
    model = forward(identity([(2,), (3,)]), blocks.SequenceConstruct())
    (found,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x0": np.ones(2), "x1": np.zeros(3)})
    assert [len(v) for v in found] == [2, 3]
    encoder = blocks.LabelEncoder(keys_int64s=[7, 9], values_int64s=[0, 1], default_int64=-5)
    base = identity([(3,)])
    base.graph.input[0].type.tensor_type.elem_type = base.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    (found,) = onnxruntime.InferenceSession(forward(base, encoder).SerializeToString()).run(None, {"x0": np.array([9, 7, 1])})
    assert found.tolist() == [1, 0, -5]


WEIGHT, POSITIVE = np.array([0.5, 2.0, 1.0]), np.array([3.0, 1.0, 0.25])
ELEMENTWISE = {
    "mse": (loss.MSELoss, {}, F.mse_loss, {}),
    "l1": (loss.L1Loss, {}, F.l1_loss, {}),
    "bce": (loss.BCEWithLogitsLoss, {}, F.binary_cross_entropy_with_logits, {}),
    "bce, weight": (loss.BCEWithLogitsLoss, {"weight": WEIGHT}, F.binary_cross_entropy_with_logits, {"weight": WEIGHT}),
    "bce, pos_weight": (
        loss.BCEWithLogitsLoss,
        {"pos_weight": POSITIVE},
        F.binary_cross_entropy_with_logits,
        {"pos_weight": POSITIVE},
    ),
    "bce, both": (
        loss.BCEWithLogitsLoss,
        {"weight": WEIGHT, "pos_weight": POSITIVE},
        F.binary_cross_entropy_with_logits,
        {"weight": WEIGHT, "pos_weight": POSITIVE},
    ),
}


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_losses_of_elements_equal_torch(name, reduction):
    make, options, function, theirs = ELEMENTWISE[name]
    model = forward(identity([(5, 3)]), make(reduction=reduction, **options))
    assert [v.name for v in model.graph.input] == ["x0", "target"]
    x, t = leaf(5, 3), leaf(5, 3, low=0.0)
    expected = function(x, t, reduction=reduction, **{k: torch.as_tensor(v) for k, v in theirs.items()})
    check(model, {"x0": x, "target": t}, expected, ["x0"])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(6, 3), (2, 3, 4), (2, 3, 4, 5)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignore", [None, 1, -100])
def test_cross_entropy_equals_torch(reduction, shape, weighted, ignore):
    weight = WEIGHT if weighted else None
    model = forward(identity([shape]), loss.CrossEntropyLoss(weight, reduction, ignore))
    labels = torch.randint(0, 3, (shape[0], *shape[2:]))
    if ignore == -100:
        labels.view(-1)[0] = -100
    assert [d.dim_value for d in model.graph.input[1].type.tensor_type.shape.dim] == list(labels.shape)
    x = leaf(*shape)
    options = {} if ignore is None else {"ignore_index": ignore}
    expected = F.cross_entropy(x, labels, torch.as_tensor(weight) if weighted else None, reduction=reduction, **options)
    check(model, {"x0": x, "labels": labels}, expected, ["x0"])


def test_binary_cross_entropy_is_stable():
    x = torch.tensor([[-1e4, 1e4, 100.0], [1e4, -1e4, -100.0]], dtype=torch.float32, requires_grad=True)
    t = torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 0.0]])
    for options in ({}, {"pos_weight": POSITIVE}):
        model = forward(identity([(2, 3)], torch.float32), loss.BCEWithLogitsLoss(**options))
        gradient = ortmod.build_gradient(model, wrt=["x0"])
        given = {"x0": x.detach().numpy(), "target": t.numpy(), gradient.graph.input[2].name: np.ones((), np.float32)}
        found, slope = onnxruntime.InferenceSession(gradient.SerializeToString()).run(None, given)
        theirs = {k: torch.as_tensor(v).float() for k, v in options.items()}
        expected = F.binary_cross_entropy_with_logits(x, t, **theirs)
        assert np.isclose(found, expected.item(), rtol=1e-6)
        np.testing.assert_allclose(slope, torch.autograd.grad(expected, x)[0].numpy(), atol=1e-6)


def test_a_target_that_exists_is_used():
    model = forward(identity([(5, 3), (5, 3)]), lambda a, b: loss.MSELoss()(a, b))
    assert [v.name for v in model.graph.input] == ["x0", "x1"]
    labels = identity([(5, 3)])
    labels.graph.input.append(helper.make_tensor_value_info("labels", TensorProto.INT64, [5]))
    assert [v.name for v in forward(labels, loss.CrossEntropyLoss()).graph.input] == ["x0", "labels"]


def test_names_are_those_of_the_model_alone():
    model = identity([(5, 3)])
    first, second = (forward(model, loss.MSELoss()) for _ in range(2))
    assert first == second
    both = forward(model, lambda y: blocks.Add()(loss.MSELoss()(y, "a"), loss.MSELoss()(y, "b")))
    assert [v.name for v in both.graph.input] == ["x0", "a", "b"]
    names = [name for node in both.graph.node for name in node.output]
    assert len(names) == len(set(names))


class Training(onnxblock.TrainingBlock):
    def __init__(self):
        super().__init__()
        self.loss = onnxblock.loss.CrossEntropyLoss()

    def build(self, loss_input_name: str):
        return self.loss(loss_input_name)


def test_a_training_block_gives_models_and_parameters():
    _, model = mlp((10, 8, 3))
    block = Training()
    for read in (block.to_model_proto, block.parameters):
        with pytest.raises(RuntimeError, match="build the training"):
            read()
    for name in ("0.weight", "2.weight", "2.bias"):
        block.requires_grad(name)
    block.requires_grad("2.bias", False)
    with onnxblock.base(model) as handle:
        output = block("y")
        built = handle.model
    training, evaluation = block.to_model_proto()
    assert built == training and training.graph.output[0].name == evaluation.graph.output[0].name == output
    trainable, frozen = block.parameters()
    assert [t.name for t in trainable] == ["0.weight", "2.weight"] and [t.name for t in frozen] == ["2.bias"]
    values = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    for tensor in (*trainable, *frozen):
        assert np.array_equal(onnx.numpy_helper.to_array(tensor), values[tensor.name])
    assert [t.name for t in evaluation.graph.initializer] == ["0.bias"]


def test_the_forward_block_of_the_documents():
    class MyForwardBlock(onnxblock.ForwardBlock):
        def __init__(self):
            super().__init__()
            self.loss = onnxblock.loss.CrossEntropyLoss()

        def build(self, loss_input_name: str):
            return self.loss(loss_input_name)

    _, model = mlp((10, 8, 3))
    block = MyForwardBlock()
    with pytest.raises(RuntimeError, match="build the forward"):
        block.to_model_proto()
    with onnxblock.base(model):
        block("y")
    assert [v.name for v in block.to_model_proto().graph.input] == ["x", "labels"]
    assert model.graph.output[0].name == "y" and len(model.graph.input) == 1


def test_an_empty_base_grows_a_model():
    with onnxblock.empty_base(opset_version=17) as handle:
        handle.model.graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4]))
        first, last = blocks.Linear(4, 8), blocks.Linear(8, 1, bias=False)
        block = Forward(lambda: last(blocks.Sigmoid()(first("x"))))
        block()
    model = block.to_model_proto()
    assert model.opset_import[0].version == 17
    (found,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": np.ones((2, 4), np.float32)})
    assert found.shape == (2, 1)


def refuse(action, kind, message):
    with pytest.raises(kind, match=message) as found:
        action()
    assert isinstance(found.value, OrtmodError)


def test_what_does_not_fit_is_refused():
    model = identity([(5, 3)])
    for make in (loss.MSELoss, loss.L1Loss, loss.BCEWithLogitsLoss, loss.CrossEntropyLoss):
        refuse(lambda make=make: make(reduction="bad"), RuntimeError, "Reduction bad not supported")
    refuse(lambda: forward(model, lambda y: blocks.InputLike("z")()), LookupError, '"z"')
    refuse(lambda: forward(model, lambda y: loss.MSELoss()("z")), LookupError, '"z"')
    refuse(lambda: forward(model, lambda y: "z"), LookupError, '"z"')
    refuse(lambda: forward(model, lambda y: blocks.Add()(y, "z")), RuntimeError, "not valid")
    refuse(lambda: forward(identity([(5,)]), loss.CrossEntropyLoss()), RuntimeError, r"expected \[N, C, ...\]")
    refuse(lambda: loss.MSELoss()("y0"), RuntimeError, "no model to build on")
    refuse(lambda: onnxblock.base(None).__enter__(), RuntimeError, "cannot be None")
    refuse(lambda: onnxblock.custom_op_library("nowhere.so").__enter__(), RuntimeError, "does not exist")
    with onnxblock.base(model):
        refuse(lambda: onnxblock.empty_base().__enter__(), RuntimeError, "Base onnx model already exists")
    for make in (
        lambda: onnxblock.optim.AdamW(betas=(1.0, 0.9)),
        lambda: onnxblock.optim.AdamW(form="keras"),
        lambda: onnxblock.optim.AdamW(eps=0.0),
        lambda: onnxblock.optim.AdamW(bias_correction=False),
        lambda: onnxblock.optim.AdamW(weight_decay=-1.0),
        lambda: onnxblock.optim.SGD(nesterov=True),
        lambda: onnxblock.optim.SGD(momentum=1.0),
        lambda: onnxblock.optim.SGD(groups=[{"lr_scale": 2.0}]),
        lambda: onnxblock.optim.SGD(groups=[{"params": "a", "rate": 2.0}]),
        lambda: onnxblock.optim.ClipGradNorm(0.0),
    ):
        refuse(make, ModelError, "onnxblock")


def test_a_block_that_fails_leaves_no_model_behind():
    with pytest.raises(ZeroDivisionError):
        forward(identity([(5, 3)]), lambda y: 1 / 0)
    forward(identity([(5, 3)]), loss.MSELoss())
