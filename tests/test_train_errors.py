"""What the optimizers and their pieces say about data, weights, losses and gradients that do not fit."""

import numpy as np
import onnx
import pytest
from train_models import linear, mlp

import ortmod
from ortmod.training import (
    BaseLearningLoss,
    DataError,
    LearningRateSGD,
    OrtGradientForwardBackward,
    OrtGradientForwardBackwardOptimizer,
    OrtGradientOptimizer,
    add_loss_output,
)

N = 30
X = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
Y = X[:, :2] * np.float32(2)
WEIGHTS = np.random.default_rng(1).uniform(0.5, 1, size=N).astype(np.float32)


def partial(model=None, **options):
    model = linear(3, 2) if model is None else model
    rate = LearningRateSGD(0.05, learning_rate="constant")
    return OrtGradientForwardBackwardOptimizer(
        model, **{"max_iter": 3, "init": "model", "random_state": 0, "learning_rate": rate, **options}
    )


def full():
    graph = add_loss_output(linear(3), weight_name="weight")
    return OrtGradientOptimizer(graph, ["coef", "intercept"], max_iter=2, init="model")


@pytest.mark.parametrize("y", [Y[:, :1], Y[:, 0], np.ones((N, 3), np.float32)])
def test_labels_of_other_columns_are_named_with_the_expected_shape(y):
    with pytest.raises(
        ortmod.ShapeError, match=r'"label": got shape \[30, [13]\], expected \[30, 2\], that of the output "variable"'
    ):
        partial().fit(X, y)


@pytest.mark.parametrize("make, y", [(partial, Y), (full, Y[:, :1])])
def test_negative_and_zero_weights_of_rows_are_refused(make, y):
    negative = np.where(np.arange(N) == 3, -0.5, WEIGHTS)
    with pytest.raises(DataError, match="sample_weight: got -0.5, expected weights of at least 0"):
        make().fit(X, y, negative)
    with pytest.raises(DataError, match="all weights are 0"):
        make().fit(X, y, np.zeros(N))


def test_a_batch_of_rows_without_weight_changes_nothing():
    some = np.where(np.arange(N) < 20, 0, WEIGHTS).astype(np.float32)
    found = partial(shuffle=False, batch_size=10, max_iter=1).fit(X, Y, some)
    expected = partial(shuffle=False, batch_size=10, max_iter=1).fit(X[20:], Y[20:], WEIGHTS[20:])
    for a, b in zip(found.get_state(), expected.get_state(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("where", ["X", "y"])
def test_data_that_is_not_finite_is_an_error_of_values(where):
    given = {"X": X.copy(), "y": Y.copy()}
    given[where][4, 1] = np.inf
    with pytest.raises(DataError, match="contains NaN or infinity") as found:
        partial().fit(**given)
    assert isinstance(found.value, ValueError) and not isinstance(found.value, ortmod.ShapeError)


class Written(BaseLearningLoss):
    def __init__(self, body="", result="float[n, k]"):
        self.body, self.result = body, result

    def build_onnx_function(self):
        head = '<ir_version: 8, opset_import: ["" : 18]> f (float[n, k] e, float[n, k] p) =>'
        return f"{head} ({self.result} l) {{ {self.body} }}"


def test_a_loss_that_is_no_number_is_refused():
    with pytest.raises(ortmod.ModelError, match=r"Written: its first output 'l' is the loss: got shape \['n', 'k'\], expected one"):
        partial(learning_loss=Written("l = Sub(p, e)")).fit(X, Y)
    partial(learning_loss=Written("d = Sub(p, e) a = Abs(d) l = ReduceSum<keepdims = 0>(a)", "float")).fit(X, Y)


def test_weights_that_the_loss_does_not_reach_are_named():
    model = linear(3, 2)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((2, 2), np.float32), "other"))
    model.graph.node.append(onnx.helper.make_node("MatMul", ["variable", "other"], ["more"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("more", 1, ["N", 2]))
    with pytest.raises(ortmod.GradientError, match='"other" cannot be reached.*; leave it out of the weights to train$'):
        partial(model).fit(X, Y)
    partial(model, weights_to_train=["coef"]).fit(X, Y)


def test_text_that_cannot_be_read_is_quoted_as_text():
    with pytest.raises(ortmod.ModelError, match=r"cannot be read: \[ParseError at position") as found:
        partial(learning_loss=Written("l = Sub(p")).fit(X, Y)
    assert "b'" not in str(found.value) and "\\n" not in str(found.value)
    with pytest.raises(ortmod.GradientError, match=r"rule of mine::F: \[ParseError"):
        ortmod.register_gradient("mine::F", '<ir_version: 8, opset_import: ["" : 18]> f (')


@pytest.mark.parametrize("index", [5, -2, "nothing", 0.5, None])
def test_an_output_that_is_not_there_gets_no_loss(index):
    two = mlp([3, 4, 2])
    two.graph.output.add().CopyFrom(two.graph.output[0])
    two.graph.output[1].name = "s0"
    if index == -2:
        assert add_loss_output(two, output_index=index).graph.output[1].name == "y"
        return
    with pytest.raises(ValueError, match="output_index: .*y, s0"):
        add_loss_output(two, output_index=index)


@pytest.mark.parametrize("shape", [(N + 3, 2), (2, N), (N * 2,), (N, 1)])
def test_gradients_of_another_shape_than_the_output_are_refused(shape):
    function = OrtGradientForwardBackward(linear(3, 2), ["coef", "intercept"]).new_instance()
    weights = [np.zeros((3, 2), np.float32), np.zeros(2, np.float32)]
    given = [X, *(weights if function._owner.weights_to_train[0] == "coef" else weights[::-1])]
    function.forward(given, training=True)
    with pytest.raises(ortmod.ShapeError, match=r'output "variable": got shape .*, expected \(30, 2\)'):
        function.backward([np.ones(shape, np.float32)])


def test_one_weight_may_be_named_without_a_list():
    trained = partial(weights_to_train="coef").fit(X, Y)
    assert list(trained.trained_coef_) == ["coef"] and len(trained.get_state()) == 1


def test_errors_of_arguments_and_of_the_order_of_calls_are_of_the_family():
    function = OrtGradientForwardBackward(linear(3, 2), ["coef"]).new_instance()
    for kind, action in (
        (ValueError, lambda: partial().set_params(unknown=1)),
        (ValueError, lambda: partial(batch_size=1.5)),
        (ValueError, lambda: LearningRateSGD(-1)),
        (ValueError, lambda: add_loss_output(linear(3), "unknown")),
        (ValueError, lambda: OrtGradientForwardBackward(linear(3), ["nothing"])),
        (RuntimeError, lambda: function.backward([Y])),
        (RuntimeError, lambda: function.saved_tensors),
        (TypeError, lambda: full().fit(X, Y[:, :1], WEIGHTS).set_state([1])),
    ):
        with pytest.raises(kind, match=r"^\[train\] ") as found:
            action()
        assert isinstance(found.value, ortmod.OrtmodError)
