"""Losses, rates and penalties as parts of their own: written by users, in graphs of any opset, and behind the raw classes."""

import pickle

import numpy as np
import onnx
import pytest
import torch
from test_train_use import X, Y, partial
from train_models import linear, with_weights

from ortmod._errors import ModelError, RunError, ShapeError
from ortmod.training import lowlevel
from ortmod.training.data_loader import OrtDataLoader
from ortmod.training.excs import ConvergenceError, DataError, ParameterError
from ortmod.training.grad_helper import DerivativeOptions, onnx_derivative
from ortmod.training.onnx_function import function_onnx_graph, get_supported_functions
from ortmod.training.onnx_helper import add_loss_output
from ortmod.training.optimizers import OrtGradientOptimizer
from ortmod.training.ortgradient import OrtGradientForwardBackward
from ortmod.training.sgd_learning_loss import (
    AbsoluteLearningLoss,
    CrossEntropyLearningLoss,
    ElasticLearningLoss,
    HuberLearningLoss,
    NegLogLearningLoss,
    SquareLearningLoss,
)
from ortmod.training.sgd_learning_penalty import ElasticLearningPenalty
from ortmod.training.sgd_learning_rate import LearningRateAdamW, LearningRateSGD, LearningRateSGDNesterov


class TextRate(LearningRateSGD):
    """Both graphs as text."""

    def build_onnx_function(self):
        return """<ir_version: 8, opset_import: ["" : 18]>
        step (float[n] weight, float[n] gradient, float learning_rate) => (float[n] fresh) {
            move = Mul(learning_rate, gradient)
            fresh = Sub(weight, move)
        }"""

    def build_schedule(self):
        return """<ir_version: 8, opset_import: ["" : 18]>
        rate (double epoch) => (double r) {
            one = Constant <value = double {1}> ()
            top = Constant <value = double {0.01}> ()
            t = Add(epoch, one)
            r = Div(top, t)
        }"""


class TextLoss(SquareLearningLoss):
    def build_onnx_function(self):
        return """<ir_version: 8, opset_import: ["" : 18]>
        square (float[n, k] expected, float[n, k] predicted) => (float loss) {
            d = Sub(predicted, expected)
            loss = ReduceSumSquare <keepdims = 0> (d)
        }"""


def test_parts_written_as_text_are_whole_parts():
    rate = TextRate()
    assert not rate.needs_grad
    assert list(rate.loop(2)) == [0.01, 0.005]
    assert set(rate.build_onnx_functions()) == {"update", "schedule"}
    assert set(TextLoss().build_onnx_functions()) == {"loss"}
    with pytest.raises(ParameterError, match="no scores"):
        TextLoss().build_onnx_score_function()
    trained = partial(learning_rate=rate, learning_loss=TextLoss()).fit(X, Y)
    assert [r["learning_rate"] for r in trained.history_] == pytest.approx([0.01, 0.005, 0.01 / 3])
    assert {"model", "learning_rate", "learning_loss"} <= set(trained.save_onnx_graph(bytes))


@pytest.mark.parametrize("score", ["squared_error", "elastic", "log"])
def test_numbers_of_a_loss_in_the_graph_are_not_trained_by_default(score):
    model = linear(3, 2)
    if score == "log":
        model.graph.node.append(onnx.helper.make_node("Softmax", ["variable"], ["p"], axis=1))
        model.graph.output[0].name = "p"
    graph = add_loss_output(model, score, penalty={"coef": {"l1": 0.1, "l2": 0.1}})
    labels = np.arange(50) % 2 if score == "log" else np.repeat(Y, 2, 1)
    trained = OrtGradientOptimizer(graph, None, init="model", max_iter=1).fit(X, labels)
    assert set(trained.trained_coef_) == {"coef", "intercept"}


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize(("warmup", "total"), [(0, 0), (5, 5), (0, 5), (2.5, 2.5), (3, 7)])
def test_rates_are_finite_also_where_warm_up_is_all(kind, warmup, total):
    rates = list(LearningRateSGD(1.0, learning_rate=kind, warmup=warmup, total=total, eta_min=0.125).loop(12))
    assert np.isfinite(rates).all() and max(rates) <= 1
    assert rates[-1] == 0.125


@pytest.mark.parametrize("opset", [9, 10, 11, 12, 13, 15, 18, 22])
def test_graphs_of_an_opset_are_valid(opset):
    classes = [SquareLearningLoss, AbsoluteLearningLoss, ElasticLearningLoss, HuberLearningLoss, NegLogLearningLoss]
    made = [
        c(convention=v).build_onnx_function(opset, weighted=w) for c in classes for v in ("onnxcustom", "torch") for w in (0, 1)
    ]
    made += [ElasticLearningPenalty(convention=v).build_onnx_function(opset) for v in ("onnxcustom", "torch")]
    made += [r.build_onnx_function(opset) for r in (LearningRateSGD(), LearningRateSGDNesterov(), LearningRateAdamW())]
    made += [function_onnx_graph(name, target_opset=opset) for name in get_supported_functions()]
    if opset >= 12:
        made.append(CrossEntropyLearningLoss().build_onnx_function(opset))
    for proto in made:
        onnx.checker.check_model(proto, full_check=True)


def test_opsets_that_cannot_hold_a_graph_are_refused():
    for call in (
        lambda: SquareLearningLoss().build_onnx_function(8),
        lambda: CrossEntropyLearningLoss().build_onnx_function(11),
        lambda: function_onnx_graph("zero", target_opset=7),
    ):
        with pytest.raises((ModelError, ParameterError), match="opset: got"):
            call()


@pytest.mark.parametrize("opset", [7, 9, 13, 22])
def test_a_loss_is_added_to_graphs_whose_weights_are_inputs(opset):
    head = f'<ir_version: 3, opset_import: ["" : {opset}]>'
    text = f"{head} n (float[N, 3] X, float[3, 1] coef) => (float[N, 1] y) {{ y = MatMul(X, coef) }}"
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((3, 1), np.float32), "coef"))
    full = OrtGradientOptimizer(add_loss_output(model), ["coef"], init="model", max_iter=2, shuffle=False).fit(X, Y)
    np.testing.assert_allclose(full.train_losses_[0], partial(model, shuffle=False).fit(X, Y).train_losses_[0] * 2, rtol=0.1)


def test_the_log_loss_in_a_graph_takes_several_classes_and_no_others():
    text = "n (float[N, 3] X) => (float[N, 3] p) { s = MatMul(X, w)\n p = Softmax <axis = 1> (s) }"
    w = np.linspace(-1, 1, 9).reshape(3, 3).astype(np.float32)
    graph = add_loss_output(with_weights(text, {"w": w}), "log")
    labels = np.arange(50) % 3
    trained = OrtGradientOptimizer(graph, ["w"], init="model", max_iter=0).fit(X, labels)
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(X @ w), torch.from_numpy(labels), reduction="none")
    np.testing.assert_allclose(trained.losses(X, labels), expected, rtol=1e-4)
    for wrong in (labels - 1, labels + 1):
        with pytest.raises(ConvergenceError):
            trained.set_params(max_iter=1).fit(X, wrong)


@pytest.mark.parametrize("factors", [{"l3": 1}, "a"])
def test_penalties_of_a_loss_in_the_graph_are_checked(factors):
    with pytest.raises(ParameterError, match="penalty of 'coef'"):
        add_loss_output(linear(3), penalty={"coef": factors})


# The raw calls.


def test_a_failed_backward_leaves_its_forward_in_flight():
    function = OrtGradientForwardBackward(linear(3)).new_instance()
    prediction = function.forward([X, np.zeros(1, np.float32), np.zeros((3, 1), np.float32)], training=True)[0]
    for wrong in ([np.zeros((2, 2), np.float32)], [prediction, prediction]):
        with pytest.raises(ShapeError):
            function.backward(wrong)
    np.testing.assert_allclose(function.backward([(prediction - Y).tolist()])[1], -Y.sum(0), rtol=1e-4)


def session(**options):
    parameters = lowlevel.TrainingParameters(weights_to_train={"coef", "intercept"}, **options)
    return lowlevel.TrainingSession(add_loss_output(linear(3)), parameters)


@pytest.mark.parametrize("rate", [np.array([], np.float32), np.array([np.nan], np.float32), np.ones(2, np.float32)])
def test_a_step_needs_one_finite_rate(rate):
    one = session()
    with pytest.raises(DataError, match="Learning_Rate"):
        one.run(None, {"X": X, "label": Y, "Learning_Rate": rate})
    assert all((value == 0).all() for value in one.get_state().values())


def test_names_of_sessions_are_checked():
    feeds = {"X": X, "label": Y, "Learning_Rate": 0.01}
    one, plain = session(), lowlevel.InferenceSession(linear(3))
    for call in (
        lambda: one.run(["other"], feeds),
        lambda: one.load_state({"coef": np.ones((3, 1)), "intercept": np.zeros(4)}),
        lambda: plain.run(["other"], {"X": X}),
        lambda: plain.run(None, {"x": X}),
    ):
        with pytest.raises((ModelError, ShapeError)):
            call()
    assert all((value == 0).all() for value in one.get_state().values())
    binding = lowlevel.SessionIOBinding(plain)
    binding.bind_output("variable")
    with pytest.raises(RunError, match="run_with_iobinding"):
        binding.get_outputs()


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer_attributes_map": {"coef": {"lambda": 0.1}, "intercept": {"lambda": 0.0}}},
        {"optimizer_attributes_map": {"coef": {"lambda": 0.1}}},
        {"optimizer_attributes_map": {name: {"gamma": 0.1} for name in ("coef", "intercept")}},
        {"optimizer_int_attributes_map": {name: {"do_bias_correction": 0} for name in ("coef", "intercept")}},
    ],
)
def test_attributes_of_adam_that_are_not_followed_are_refused(options):
    with pytest.raises(ParameterError, match="optimizer_attributes_map"):
        session(training_optimizer_name="AdamOptimizer", **options)


def test_outputs_of_bfloat16_are_given_as_float32():
    model = with_weights("n (bfloat16[N, 3] X) => (bfloat16[N, 1] y) { y = MatMul(X, w) }", {})
    model.graph.initializer.append(onnx.helper.make_tensor("w", onnx.TensorProto.BFLOAT16, [3, 1], [1.0, 1.0, 1.0]))
    (got,) = lowlevel.InferenceSession(model).run(None, {"X": torch.from_numpy(X).bfloat16()})
    assert got.dtype == np.float32
    np.testing.assert_allclose(got[:, 0], X.sum(1), atol=0.05)
    np.testing.assert_array_equal(OrtGradientForwardBackward(model).get_initializer("w"), np.ones((3, 1)))


# Other types, shapes and calls.


@pytest.mark.parametrize("rate", [LearningRateSGD(0.01), LearningRateSGDNesterov(0.01), LearningRateAdamW(0.01)])
@pytest.mark.parametrize("code", [onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16])
def test_weights_and_states_of_16_bits_without_masters(rate, code):
    name, kind = {10: ("float16", torch.float16), 16: ("bfloat16", torch.bfloat16)}[code]
    model = with_weights(f"n ({name}[N, 3] X) => ({name}[N, 1] y) {{ y = MatMul(X, w) }}", {})
    model.graph.initializer.append(onnx.helper.make_tensor("w", code, [3, 1], [0.0] * 3))
    narrow = partial(model, master_dtype=kind, learning_rate=rate, max_iter=20, warm_start=True).fit(X, Y)
    wide = partial(model, learning_rate=rate, max_iter=20).fit(X, Y)
    assert {t.dtype for t in narrow._fitted().full_state()["tensors"].values()} == {kind}
    np.testing.assert_allclose(narrow.train_losses_, wide.train_losses_, rtol=0.05)
    half = partial(model, master_dtype=kind, learning_rate=rate, max_iter=10, warm_start=True).fit(X, Y)
    resumed = pickle.loads(pickle.dumps(half)).fit(X, Y)
    np.testing.assert_array_equal(resumed.trained_coef_["w"], narrow.trained_coef_["w"])


def test_weights_of_rows_are_not_broadcast_where_rows_are_columns():
    text = "n (float[N, 3] X) => (float[1, N] y) { p = MatMul(X, w)\n y = Transpose(p) }"
    model = with_weights(text, {"w": np.zeros((3, 1), np.float32)})
    with pytest.raises(ShapeError):
        partial(model).fit(X, Y, np.ones(50))


@pytest.mark.parametrize("options", [{"batch_size": "a"}, {"batch_size": 2.5}, {"seed": "a"}])
def test_arguments_of_the_loader_are_checked(options):
    with pytest.raises(ParameterError):
        OrtDataLoader(X, Y, **options)


def test_the_loader_takes_bfloat16_and_no_single_numbers():
    with pytest.raises(ShapeError):
        OrtDataLoader(X, 3.0)
    batch = next(OrtDataLoader(torch.from_numpy(X).bfloat16(), Y, random_iter=False).iter_numpy())
    assert batch[0].dtype == np.float32


def test_names_of_derivatives_are_checked():
    assert [o.name for o in onnx_derivative(linear(3), weights="coef", inputs=[]).graph.output] == ["coef_grad"]
    with pytest.raises(ParameterError, match="label: got 'other'"):
        onnx_derivative(add_loss_output(linear(3)), options=DerivativeOptions.Loss, loss="loss", label="other")
    for model in (None, "/no/such/file.onnx", b"no model"):
        with pytest.raises(ModelError):
            onnx_derivative(model)
