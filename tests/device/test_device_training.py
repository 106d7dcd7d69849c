"""Fits, estimators and artifacts on the device give what they give on the CPU."""

import pickle

import numpy as np
import pytest
import torch
from nets import mlp as exported_mlp
from test_sklearn_fits import classes
from test_sklearn_fits import table as sklearn_table
from test_training_api import CheckpointState, Module, Optimizer, made, steps
from test_training_api import data as api_data
from train_models import linear, mlp, with_weights

from ortmod import DeviceError
from ortmod.sklearn import OnnxClassifier, OnnxRegressor
from ortmod.training import (
    ConvergenceError,
    CrossEntropyLearningLoss,
    ElasticLearningPenalty,
    LearningRateAdamW,
    LearningRateSGD,
    LearningRateSGDNesterov,
    NegLogLearningLoss,
    OrtDataLoader,
    OrtGradientForwardBackward,
    OrtGradientForwardBackwardOptimizer,
    OrtGradientOptimizer,
    SquareLearningLoss,
    add_loss_output,
)


def table(rows=50, features=3, outputs=1, dtype=np.float32):
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, features)).astype(dtype)
    return x, np.tanh(x[:, :outputs]).astype(dtype), random.uniform(0.1, 2, rows).astype(dtype)


def partial(model, device, **options):
    options = {"max_iter": 6, "random_state": 0, "init": "model", "batch_size": 8, "learning_rate": 0.05, **options}
    return OrtGradientForwardBackwardOptimizer(model, device=device, **options)


def array(value):
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def same(here, there, tol=2e-5):
    for name, value in here.trained_coef_.items():
        np.testing.assert_allclose(array(there.trained_coef_[name]), value, rtol=tol, atol=tol, err_msg=name)
    np.testing.assert_allclose(there.train_losses_, here.train_losses_, rtol=10 * tol)


OPTIONS = {
    "sgd": {},
    "no shuffle": {"shuffle": False},
    "one batch": {"batch_size": 0},
    "more than the rows": {"batch_size": 200},
    "nesterov": {"learning_rate": LearningRateSGDNesterov(0.05, momentum=0.9)},
    "adamw": {"learning_rate": LearningRateAdamW(0.01)},
    "adaptive": {"learning_rate": LearningRateSGD(0.05, learning_rate="adaptive"), "tol": 1e-2},
    "invscaling": {"learning_rate": LearningRateSGD(0.05, learning_rate="invscaling")},
    "penalty": {"learning_penalty": ElasticLearningPenalty(0.1, 0.2)},
    "clip norm": {"clip_norm": 0.1},
    "clip value": {"clip_value": 0.01},
    "accumulate": {"accumulate": 3, "learning_penalty": ElasticLearningPenalty(0.1, 0.2)},
    "huber": {"learning_loss": "huber"},
    "absolute": {"learning_loss": "absolute_error"},
    "random start": {"init": "normal"},
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_fits(options, weighted, device):
    x, y, weights = table()
    here, there = (partial(mlp([3, 8, 1]), at, **options).fit(x, y, weights if weighted else None) for at in ("cpu", device))
    same(here, there)
    np.testing.assert_allclose(there.predict(x), here.predict(x), rtol=1e-4, atol=1e-5)


def test_data_on_the_device_stays_there(device):
    x, y, _ = table()
    here = partial(mlp([3, 8, 1]), "cpu").fit(x, y)
    there = partial(mlp([3, 8, 1]), device).fit(torch.from_numpy(x).to(device), torch.from_numpy(y).to(device))
    same(here, there)
    assert isinstance(there.trained_coef_["w0"], torch.Tensor)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_float64(dtype, device):
    x, y, _ = table(dtype=dtype)
    here, there = (partial(mlp([3, 8, 1], dtype), at).fit(x, y) for at in ("cpu", device))
    same(here, there, 1e-12 if dtype == np.float64 else 2e-5)


@pytest.mark.parametrize(("outputs", "loss"), [(1, NegLogLearningLoss()), (3, CrossEntropyLearningLoss())])
def test_classifiers(outputs, loss, device):
    x, _, weights = table()
    y = (x[:, 0] > 0).astype(np.int64) if outputs == 1 else np.abs(x).argmax(1)
    here, there = (partial(linear(3, outputs), at, learning_loss=loss).fit(x, y, weights) for at in ("cpu", device))
    same(here, there)


def test_several_inputs_and_targets(device):
    model = with_weights(
        """net (float[N, 3] a, float[N, 3] b) => (float[N, 2] y, float[N, 1] z) {
            s = MatMul(a, w)
            t = Mul(b, v)
            r = Relu(t)
            y = Add(s, c)
            z = ReduceSum(r, axes)
        }""",
        {
            "w": np.ones((3, 2), np.float32),
            "v": np.full(3, 0.5, np.float32),
            "c": np.zeros(2, np.float32),
            "axes": np.array([1], np.int64),
        },
    )
    x, y, _ = table(outputs=2)
    losses = [SquareLearningLoss(), SquareLearningLoss("torch")]
    names = ["v", "c", "w"]
    here, there = (
        partial(model, at, weights_to_train=names, learning_loss=losses).fit([x, 2 * x], [y, y[:, :1]]) for at in ("cpu", device)
    )
    same(here, there)


def test_validation_early_stopping_and_reports(device):
    x, y, _ = table(200)
    reports = {"cpu": [], device: []}
    options = dict(early_stopping=True, tol=1e-3, n_iter_no_change=3, max_iter=60, learning_rate=0.2)
    fits = [
        partial(mlp([3, 8, 1]), at, callback=reports[at].append, **options).fit(x[:150], y[:150], None, x[150:], y[150:])
        for at in ("cpu", device)
    ]
    same(*fits)
    assert len(reports["cpu"]) == len(reports[device])
    for a, b in zip(*reports.values(), strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose(list(b.values()), list(a.values()), rtol=1e-3, atol=1e-6)


def test_a_fit_that_diverges_leaves_the_weights_before_the_epoch(device):
    x, y, _ = table()
    start = mlp([3, 8, 1])
    for at in ("cpu", device):
        trained = partial(start, at, learning_rate=1e20, max_iter=3)
        with pytest.raises(ConvergenceError, match="not finite"):
            trained.fit(1e10 * x, y)


def test_warm_start_and_pickles(device):
    x, y, _ = table()
    whole = partial(mlp([3, 8, 1]), device, learning_rate=LearningRateAdamW(0.01), max_iter=6).fit(x, y)
    part = partial(mlp([3, 8, 1]), device, learning_rate=LearningRateAdamW(0.01), max_iter=2, warm_start=True).fit(x, y)
    part = pickle.loads(pickle.dumps(part)).set_params(max_iter=4).fit(x, y)
    for name, value in whole.trained_coef_.items():
        np.testing.assert_array_equal(part.trained_coef_[name], value)


def test_batch_normalization_and_dropout(device):
    text = """net (float[N, 3] X) => (float[N, 1] y) {
        h = MatMul(X, w)
        n = BatchNormalization(h, s, b, mean, var)
        d = Dropout(n, ratio, training)
        y = MatMul(d, v)
    }"""
    random = np.random.default_rng(0)
    weights = {
        "w": random.normal(size=(3, 4)).astype(np.float32),
        "s": np.ones(4, np.float32),
        "b": np.zeros(4, np.float32),
        "mean": np.zeros(4, np.float32),
        "var": np.ones(4, np.float32),
        "ratio": np.float32(0.0),
        "training": np.array(True),
        "v": random.normal(size=(4, 1)).astype(np.float32),
    }
    x, y, _ = table()
    names = ["w", "s", "b", "v"]
    here, there = (partial(with_weights(text, weights), at, weights_to_train=names).fit(x, y) for at in ("cpu", device))
    same(here, there, 1e-4)
    found = [{t.name: t for t in trained.get_trained_onnx().graph.initializer} for trained in (here, there)]
    for name in ("mean", "var"):
        a, b = (np.frombuffer(f[name].raw_data, np.float32) for f in found)
        assert not np.allclose(a, weights[name])
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rate", [0.01, LearningRateSGDNesterov(0.01), LearningRateAdamW(0.01)])
def test_full_training(rate, device):
    x, y, weights = table()
    model = add_loss_output(mlp([3, 8, 1]), weight_name="weight")
    names = ["w0", "b0", "w1", "b1"]
    options = dict(learning_rate=rate, max_iter=5, batch_size=8, init="model", random_state=0, sample_weight_name="weight")
    here, there = (OrtGradientOptimizer(model, names, device=at, **options).fit(x, y, weights) for at in ("cpu", device))
    same(here, there)
    np.testing.assert_allclose(
        np.frombuffer(there.get_trained_onnx().graph.initializer[0].raw_data, np.float32),
        np.frombuffer(here.get_trained_onnx().graph.initializer[0].raw_data, np.float32),
        atol=2e-5,
    )


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_partial_training_by_hand(kind, device):
    x, y, _ = table()
    results = []
    for at in ("cpu", device):
        example = x if kind == "numpy" else torch.from_numpy(x).to(at)
        owner = OrtGradientForwardBackward(mlp([3, 8, 1]), device=at)
        function = owner.new_instance()
        weights = [array(owner.get_initializer(name)) for name in owner.grad_input_names_[1:]]
        arguments = [example, *(w if kind == "numpy" else torch.from_numpy(w.copy()).to(at) for w in weights)]
        (first,) = function.forward(arguments, training=True)
        (second,) = function.forward([2 * arguments[0], *arguments[1:]], training=True)
        results.append([first, second, *function.backward([second]), *function.backward([first])])
    for a, b in zip(*results, strict=True):
        assert type(b) is type(a)
        np.testing.assert_allclose(array(b), array(a), rtol=1e-4, atol=1e-5)


def test_estimators(device):
    x, y = sklearn_table()
    options = dict(hidden_layer_sizes=(6,), random_state=0, max_iter=5, learning_rate_init=0.05, batch_size=16)
    for cls, target in ((OnnxRegressor, y), (OnnxClassifier, classes(y))):
        here, there = cls(**options).fit(x, target), cls(device=str(device), **options).fit(x, target)
        for a, b in zip(here.coefs_, there.coefs_, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-9)
        assert np.array_equal(here.predict(x[:9]), there.predict(x[:9])) or np.allclose(here.predict(x), there.predict(x))
        again = pickle.loads(pickle.dumps(there))
        for a, b in zip(again.coefs_, there.coefs_, strict=True):
            np.testing.assert_array_equal(a, b)
        for name in ("predict_proba", "decision_function", "score"):
            if hasattr(here, name):
                arguments = (x, target) if name == "score" else (x,)
                np.testing.assert_allclose(getattr(there, name)(*arguments), getattr(here, name)(*arguments), rtol=1e-9)
        there.partial_fit(x, target)


def test_the_loader_gives_batches_on_the_device(device):
    x, y, _ = table()
    for (a, b), (c, d) in zip(*(OrtDataLoader(x, y, batch_size=16, device=str(at), seed=3) for at in ("cpu", device)), strict=True):
        assert c.device == device
        np.testing.assert_array_equal(array(c), a)
        np.testing.assert_array_equal(array(d), b)


def test_artifacts(tmp_path, device):
    _, model = exported_mlp((10, 8, 3))
    state, module, optimizer = made(tmp_path, model, ["0.weight", "0.bias", "2.weight", "2.bias"])
    state = CheckpointState.load_checkpoint(tmp_path / "checkpoint")
    there = Module(tmp_path / "training_model.onnx", state, tmp_path / "eval_model.onnx", device=str(device))
    x, y = api_data()
    found = steps(there, Optimizer(tmp_path / "optimizer_model.onnx", there), x, y)
    np.testing.assert_allclose(found, steps(module, optimizer, x, y), rtol=1e-4)
    CheckpointState.save_checkpoint(state, tmp_path / "again", True)
    assert CheckpointState.load_checkpoint(tmp_path / "again").parameters["0.weight"].data.shape == (8, 10)
    there.eval()
    module.eval()
    np.testing.assert_allclose(there(x, y), module(x, y), rtol=1e-3)


def test_a_device_without_index_is_the_current_one(device):
    x, y, weights = table()
    fits = [partial(mlp([3, 8, 1]), at, learning_rate=LearningRateAdamW(0.01)).fit(x, y, weights) for at in (device, device.type)]
    same(*fits, 0)
    assert OrtGradientForwardBackward(mlp([3, 8, 1]), device=device.type).device == device


def test_a_device_that_is_not_there_is_named(device):
    with pytest.raises(DeviceError, match="device: got"):
        partial(linear(3), f"{device.type}:{99}").fit(*table()[:2])
