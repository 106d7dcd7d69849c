"""The code that the documents on training show, as they show it, after the imports; and the raw classes they name."""

import numpy as np
import onnx
import pytest
import torch
from scipy.optimize import minimize
from train_models import linear, mlp

import ortmod
from ortmod.training import (
    ElasticLearningLoss,
    ElasticLearningPenalty,
    LearningRateSGDNesterov,
    OrtGradientForwardBackward,
    OrtGradientForwardBackwardOptimizer,
    OrtGradientOptimizer,
    add_loss_output,
)
from ortmod.training.lowlevel import (
    InferenceSession,
    OrtModuleGraphBuilder,
    OrtModuleGraphBuilderConfiguration,
    OrtValueCache,
    OrtValueVector,
    PartialGraphExecutionState,
    SessionIOBinding,
    TrainingAgent,
    TrainingParameters,
    TrainingSession,
)


def table(rows=60, features=3):
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, features)).astype(np.float32)
    return x, (x @ np.arange(1, features + 1) + 0.5).astype(np.float32)


class Shown:
    """`forward` and `backward` of the document on the second API, letter by letter but for the first line of forward."""

    def forward(self, inputs, training=False):
        cls = self.__class__
        forward_inputs = cls.input_to_ort(inputs, cls._devices, cls._debug)

        if training:
            forward_outputs = OrtValueVector()
            state = PartialGraphExecutionState()
            self.states_.append(state)
            cls._training_agent.run_forward(forward_inputs, forward_outputs, state, cls._cache)
            return forward_outputs
        else:
            iobinding = SessionIOBinding(cls._sess_eval._sess)
            for name, inp in zip(cls._grad_input_names, forward_inputs):  # noqa: B905
                iobinding.bind_ortvalue_input(name, inp)

            for name, dev in zip(cls._output_names, cls._fw_no_grad_output_device_info):  # noqa: B905
                iobinding.bind_output(name, dev)

            cls._sess_eval._sess.run_with_iobinding(iobinding, cls._run_options)
            return iobinding.get_outputs()

    def backward(self, grad_outputs):
        cls = self.__class__
        inputs = self.saved_tensors  # noqa: F841
        state = self.states_.pop()
        backward_inputs = cls.input_to_ort(grad_outputs, cls._bw_outputs_device_info, cls._debug)

        backward_outputs = OrtValueVector()
        cls._training_agent.run_backward(backward_inputs, backward_outputs, state)
        return backward_outputs


def test_the_forward_and_backward_of_the_second_api_run_as_written():
    x, y = table()
    made = OrtGradientForwardBackward(linear(3), ["coef", "intercept"])
    shown = type("Function", (Shown, made.cls_type_), {})()
    coef, intercept = np.ones((3, 1), np.float32), np.zeros(1, np.float32)
    inputs = [x, coef, intercept]
    shown.save_for_backward(inputs)
    prediction = shown.forward(inputs, training=True)[0].numpy()
    np.testing.assert_allclose(prediction, x @ coef, rtol=1e-5)
    np.testing.assert_allclose(shown.forward(inputs)[0].numpy(), prediction)
    d = (prediction - y.reshape(-1, 1)).astype(np.float32)
    gradients = [g.numpy() for g in shown.backward([d])]
    for got, expected in zip(gradients, [d @ coef.T, x.T @ d, d.sum(0)], strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_partial_training_as_written():
    X_train, y_train = table()
    w_train = np.random.default_rng(1).uniform(0.5, 1.5, len(y_train)).astype(np.float32)
    onx = linear(3)

    train_session = OrtGradientForwardBackwardOptimizer(
        onx,
        ["coef", "intercept"],
        learning_rate=LearningRateSGDNesterov(),
        learning_loss=ElasticLearningLoss(l1_weight=0.1, l2_weight=0.9),
        learning_penalty=ElasticLearningPenalty(l1=0.1, l2=0.9),
    )
    train_session.fit(X_train, y_train, w_train)
    state_tensors = train_session.get_state()
    losses = train_session.train_losses_

    assert [t.shape for t in state_tensors] == [(3, 1), (1,)]

    def objective(p):  # the mean loss of a row, and the penalty divided by the rows of a batch
        d = X_train @ p[:3] + p[3] - y_train
        data = np.average(0.1 * np.abs(d) + 0.9 * d * d, weights=w_train)
        return data + (0.1 * np.abs(p).sum() + 0.9 * (p * p).sum()) / 10

    best = minimize(objective, np.zeros(4), method="Nelder-Mead", options={"maxfev": 5000, "xatol": 1e-5}).x
    np.testing.assert_allclose(np.concatenate([t.ravel() for t in state_tensors]), best, atol=0.03)
    assert len(losses) == 100 and abs(losses[-1] - losses[-20]) < 0.01


def test_full_training_as_described():
    """Loss in the graph, weights selected, trained, collected into a new file."""
    x, y = table()
    train = add_loss_output(linear(3))
    session = OrtGradientOptimizer(
        train, ["intercept", "coef"], learning_rate=LearningRateSGDNesterov(0.01), max_iter=60, random_state=0
    )
    session.fit(x, y)
    trained = session.get_trained_onnx(linear(3))
    assert [i.name for i in trained.graph.input] == ["X"]
    module = ortmod.OnnxModule(trained)
    np.testing.assert_allclose(module(torch.from_numpy(x)).detach().numpy().ravel(), y, atol=1e-2)
    assert list(session.get_state()) == ["intercept", "coef"]


def test_the_raw_first_api_trains_step_by_step():
    x, y = table()
    parameters = TrainingParameters()
    parameters.loss_output_name = "loss"
    parameters.weights_to_train = {"coef", "intercept"}
    parameters.training_optimizer_name = "SGDOptimizer"
    parameters.optimizer_attributes_map = {name: {} for name in parameters.weights_to_train}
    parameters.optimizer_int_attributes_map = {name: {} for name in parameters.weights_to_train}
    session = TrainingSession(add_loss_output(linear(3)).SerializeToString(), parameters)
    assert [i.name for i in session.get_inputs()] == ["X", "label", "Learning_Rate"]
    before = session.get_state()
    rate = np.array([0.001], dtype=np.float32)
    feeds = {"X": x[:2], "label": y[:2].reshape(-1, 1), "Learning_Rate": rate}
    loss, prediction = session.run(None, feeds)
    d = x[:2] @ before["coef"] + before["intercept"] - y[:2].reshape(-1, 1)
    assert float(np.ravel(loss)[0]) == pytest.approx(float((d**2).sum()), rel=1e-5)
    np.testing.assert_allclose(prediction, x[:2] @ before["coef"] + before["intercept"], atol=1e-6)
    np.testing.assert_allclose(session.get_state()["coef"], before["coef"] - 0.001 * 2 * x[:2].T @ d, rtol=1e-4, atol=1e-6)
    session.load_state(before)
    np.testing.assert_array_equal(session.get_state()["coef"], before["coef"])
    with pytest.raises(ortmod.ModelError, match="Learning_Rate"):
        session.run(None, {"X": x[:2], "label": y[:2].reshape(-1, 1)})


def test_the_raw_second_api_builds_and_runs_a_gradient_model():
    x, _ = table()
    config = OrtModuleGraphBuilderConfiguration()
    config.initializer_names = ["w0", "b0", "w1", "b1"]
    config.initializer_names_to_train = ["b0", "w0", "b1", "w1"]
    config.input_names_require_grad = ["X"]
    config.build_gradient_graph = True
    builder = OrtModuleGraphBuilder()
    model = mlp([3, 4, 1])
    builder.initialize(model.SerializeToString(), config)
    builder.build()
    info = builder.get_graph_info()
    assert info.user_output_names == ["y"] and info.initializer_grad_names_to_train == ["b0_grad", "w0_grad", "b1_grad", "w1_grad"]
    onnx.checker.check_model(onnx.load_from_string(builder.get_gradient_model()))

    values = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    names = ["X", *info.initializer_names_to_train]
    fetches = [*info.user_input_grad_names.values(), *info.initializer_grad_names_to_train]
    sess = InferenceSession(builder.get_gradient_model())
    agent = TrainingAgent(sess._sess, names, ["cpu"], fetches, ["cpu"] * len(fetches))
    feeds = [x, *[values[name] for name in names[1:]]]

    states, outputs = [PartialGraphExecutionState(), PartialGraphExecutionState()], [OrtValueVector(), OrtValueVector()]
    agent.run_forward(feeds, outputs[0], states[0], OrtValueCache())
    agent.run_forward([2 * x, *feeds[1:]], outputs[1], states[1], OrtValueCache())
    for k in (0, 1):
        gradients = OrtValueVector()
        agent.run_backward([np.ones((len(x), 1), np.float32)], gradients, states[k])
        module = ortmod.OnnxModule(model, trainable=list(values))
        inputs = torch.from_numpy((k + 1) * x).requires_grad_()
        module(inputs).sum().backward()
        expected = {"X_grad": inputs.grad, **{f"{n}_grad": p.grad for n, p in module.named_parameters()}}
        for name, got in zip(fetches, gradients, strict=True):
            torch.testing.assert_close(got, expected[name], rtol=1e-4, atol=1e-5)


def test_several_forwards_are_in_flight_and_numpy_alone_trains():
    x, y = table()
    function = OrtGradientForwardBackward(linear(3), ["intercept", "coef"]).new_instance()
    weights = [np.zeros(1, np.float32), np.zeros((3, 1), np.float32)]
    for _ in range(200):
        halves = [(x[:30], y[:30].reshape(-1, 1)), (x[30:], y[30:].reshape(-1, 1))]
        predictions = [function.forward([a, *weights], training=True)[0] for a, _ in halves]
        assert len(function.states_) == 2 and isinstance(predictions[0], np.ndarray)
        for (_, b), p in zip(reversed(halves), reversed(predictions), strict=True):
            gradients = function.backward([(p - b) / 60])
            weights = [w - 0.1 * g for w, g in zip(weights, gradients[1:], strict=True)]
    np.testing.assert_allclose(weights[1].ravel(), [1, 2, 3], atol=1e-2)
    with pytest.raises(RuntimeError, match="no forward in training"):
        function.backward([y])
