"""Weights after fits against scikit-learn's and torch's own optimizers from the same start, order, rate, momentum and penalty."""

import copy

import numpy as np
import onnx
import pytest
import torch
from sklearn.linear_model import SGDClassifier, SGDRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from train_models import linear, mlp

import ortmod
from ortmod.training import (
    CrossEntropyLearningLoss,
    ElasticLearningPenalty,
    LearningRateAdamW,
    LearningRateSGD,
    LearningRateSGDNesterov,
    NegLogLearningLoss,
    OrtGradientForwardBackwardOptimizer,
    SquareLearningLoss,
)

STEPS, BATCH = 50, 8


def table(rows: int = 80, features: int = 5, dtype=np.float64, seed: int = 0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, features)).astype(dtype)
    y = np.sin(x.sum(1)) + 0.1 * random.normal(size=rows)
    return x, y.astype(dtype)


def fit(model, x, y, loss, rate, penalty=None, epochs=STEPS // 10, **options):
    trained = OrtGradientForwardBackwardOptimizer(
        model,
        learning_loss=loss,
        learning_rate=rate,
        learning_penalty=penalty,
        max_iter=epochs,
        batch_size=BATCH,
        shuffle=False,
        init="model",
        **options,
    )
    trained.fit(x, y)
    return trained.trained_coef_


# torch.optim

RATES = {
    "sgd": (LearningRateSGD(0.05, learning_rate="constant"), lambda p: torch.optim.SGD(p, lr=0.05), 0.0),
    "momentum": (
        LearningRateSGDNesterov(0.02, learning_rate="constant", nesterov=False),
        lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9),
        0.0,
    ),
    "momentum torch": (
        LearningRateSGDNesterov(0.02, learning_rate="constant", nesterov=False, convention="torch"),
        lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9),
        0.0,
    ),
    "nesterov": (
        LearningRateSGDNesterov(0.02, learning_rate="constant"),
        lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, nesterov=True),
        0.0,
    ),
    "nesterov torch": (
        LearningRateSGDNesterov(0.02, learning_rate="constant", convention="torch"),
        lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, nesterov=True),
        0.0,
    ),
    "weight decay": (
        LearningRateSGD(0.05, learning_rate="constant"),
        lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=0.1),
        0.1,
    ),
    "adamw": (LearningRateAdamW(0.01, weight_decay=0.05), lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.05), 0.0),
    "adam": (LearningRateAdamW(0.01, weight_decay=0), lambda p: torch.optim.Adam(p, lr=0.01), 0.0),
}


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-10), (np.float32, 2e-6)])
@pytest.mark.parametrize("name", RATES)
def test_fifty_steps_equal_torch(name, dtype, tolerance):
    rate, make, decay = RATES[name]
    x, y = table(dtype=dtype)
    model = mlp([5, 7, 1], dtype=dtype)
    penalty = ElasticLearningPenalty(0, decay, convention="torch") if decay else None
    got = fit(model, x, y, SquareLearningLoss("torch"), rate, penalty)
    module = ortmod.OnnxModule(model, trainable=list(got))
    optimizer = make(list(module.parameters()))
    tx, ty = torch.from_numpy(x), torch.from_numpy(y).reshape(-1, 1)
    for step in range(STEPS):
        rows = slice(step * BATCH % len(x), step * BATCH % len(x) + BATCH)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(module(tx[rows]), ty[rows]).backward()
        optimizer.step()
    for key, value in module.named_parameters():
        np.testing.assert_allclose(got[key], value.detach().numpy(), rtol=0, atol=tolerance, err_msg=key)


@pytest.mark.parametrize("learning_rate", ["cosine", "linear"])
def test_schedules_equal_torch(learning_rate):
    x, y = table()
    model = linear(5, dtype=np.float64)
    if learning_rate == "cosine":
        rate = LearningRateSGD(0.05, learning_rate="cosine", period="update", total=STEPS, eta_min=0.001)
    else:
        rate = LearningRateSGD(0.05, learning_rate="linear", period="update", warmup=10)
    got = fit(model, x, y, SquareLearningLoss("torch"), rate)
    module = ortmod.OnnxModule(model, trainable=list(got))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    if learning_rate == "cosine":
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS, 0.001)
    else:
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 9)
    tx, ty = torch.from_numpy(x), torch.from_numpy(y).reshape(-1, 1)
    for step in range(STEPS):
        rows = slice(step * BATCH % len(x), step * BATCH % len(x) + BATCH)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(module(tx[rows]), ty[rows]).backward()
        optimizer.step()
        schedule.step()
    for key, value in module.named_parameters():
        np.testing.assert_allclose(got[key], value.detach().numpy(), rtol=0, atol=1e-10, err_msg=key)


# scikit-learn's MLP: its own code does the steps on the same start and order


def mlp_weights(skl):
    return {f"{k}{i}": v for i in range(len(skl.coefs_)) for k, v in (("w", skl.coefs_[i]), ("b", skl.intercepts_[i]))}


MLP_SOLVERS = {
    "sgd": (dict(solver="sgd", momentum=0.0, nesterovs_momentum=False), LearningRateSGD(0.05, learning_rate="constant")),
    "momentum": (
        dict(solver="sgd", momentum=0.9, nesterovs_momentum=False),
        LearningRateSGDNesterov(0.05, learning_rate="constant", nesterov=False),
    ),
    "nesterov": (
        dict(solver="sgd", momentum=0.9, nesterovs_momentum=True),
        LearningRateSGDNesterov(0.05, learning_rate="constant"),
    ),
    "adam": (dict(solver="adam"), LearningRateAdamW(0.05, weight_decay=0, convention="sklearn")),
    "invscaling": (
        dict(solver="sgd", momentum=0.9, nesterovs_momentum=True, learning_rate="invscaling", power_t=0.5),
        LearningRateSGDNesterov(0.05, learning_rate="invscaling", power_t=0.5, period="samples"),
    ),
}


@pytest.mark.parametrize("solver", MLP_SOLVERS)
@pytest.mark.parametrize("kind", ["regression", "binary", "classes"])
def test_fifty_steps_equal_scikit_learn_mlp(solver, kind):
    x, y = table()
    options, rate = MLP_SOLVERS[solver]
    outputs = 3 if kind == "classes" else 1
    model = mlp([5, 7, outputs], dtype=np.float64)
    if kind == "regression":
        cls, target, loss = MLPRegressor, y, SquareLearningLoss("sklearn")
    elif kind == "binary":
        cls, target, loss = MLPClassifier, (y > 0).astype(np.int64), NegLogLearningLoss()
    else:
        cls, target, loss = MLPClassifier, np.digitize(y, [-0.3, 0.4]), CrossEntropyLearningLoss()
    common = dict(hidden_layer_sizes=(7,), activation="tanh", batch_size=BATCH, shuffle=False, alpha=0.3, learning_rate_init=0.05)
    skl = cls(**common, max_iter=STEPS // 10, tol=0, n_iter_no_change=1000, **options)
    values = {i.name: onnx.numpy_helper.to_array(i).copy() for i in model.graph.initializer}

    def start(self, y, layer_units, dtype):
        type(self).__mro__[1]._initialize(self, y, layer_units, dtype)
        self.coefs_ = [values["w0"].copy(), values["w1"].copy()]
        self.intercepts_ = [values["b0"].copy(), values["b1"].copy()]

    same_start = type(cls.__name__, (cls,), {"_initialize": start})(**skl.get_params())
    with pytest.warns(Warning):
        same_start.fit(x, target)
    penalty = ElasticLearningPenalty(0, 0.3, weights="w*", convention="sklearn")
    got = fit(model, x, target, loss, rate, penalty)
    for key, value in mlp_weights(same_start).items():
        np.testing.assert_allclose(got[key], value, rtol=0, atol=1e-5, err_msg=key)


# scikit-learn's SGD: rows one by one


@pytest.mark.parametrize(
    "kind, learning_rate",
    [
        ("regression", "constant"),
        ("regression", "invscaling"),
        ("logistic", "constant"),
        ("logistic", "invscaling"),
        ("logistic", "optimal"),
    ],
)
def test_steps_equal_scikit_learn_sgd(kind, learning_rate):
    x, y = table(50)
    common = dict(
        penalty="l2",
        alpha=0.01,
        learning_rate=learning_rate,
        eta0=0.02,
        power_t=0.25,
        shuffle=False,
        max_iter=1,
        tol=None,
        fit_intercept=True,
    )
    if kind == "regression":
        skl, target, loss = SGDRegressor(**common), y, SquareLearningLoss("sklearn")
    else:
        skl, target, loss = SGDClassifier(loss="log_loss", **common), (y > 0).astype(np.int64), NegLogLearningLoss()
    skl.fit(x, target)
    rate = LearningRateSGD(0.02, alpha=0.01, power_t=0.25, learning_rate=learning_rate, period="update", convention="sklearn")
    trained = OrtGradientForwardBackwardOptimizer(
        linear(5, dtype=np.float64),
        learning_loss=loss,
        learning_rate=rate,
        learning_penalty=ElasticLearningPenalty(0, 0.01, weights=["coef"], convention="torch"),
        max_iter=1,
        batch_size=1,
        shuffle=False,
        init="model",
    ).fit(x, target)
    np.testing.assert_allclose(trained.trained_coef_["coef"].ravel(), skl.coef_.ravel(), atol=1e-5)
    np.testing.assert_allclose(trained.trained_coef_["intercept"].ravel(), np.ravel(skl.intercept_), atol=1e-5)


# What fits must do


def test_weighted_rows_equal_repeated_rows():
    x, y = table(30)
    counts = np.random.default_rng(3).integers(1, 4, size=30)
    weighted = OrtGradientForwardBackwardOptimizer(mlp([5, 4, 1]), learning_rate=0.05, max_iter=30, batch_size=0, init="model")
    repeated = copy.deepcopy(weighted)
    weighted.fit(x, y, counts.astype(np.float64))
    repeated.fit(np.repeat(x, counts, axis=0), np.repeat(y, counts))
    for a, b in zip(weighted.get_state(), repeated.get_state(), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
    assert weighted.train_losses_[-1] == pytest.approx(repeated.train_losses_[-1], rel=1e-5)


@pytest.mark.parametrize("batch_size", [10, 1000])
def test_closed_form_of_linear_regression_is_reached(batch_size):
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 4)).astype(np.float32)
    y = (x @ [1.0, -2.0, 0.5, 3.0] + 0.7 + 0.01 * random.normal(size=200)).astype(np.float32)
    solution = np.linalg.lstsq(np.c_[x, np.ones(200)].astype(np.float64), y.astype(np.float64), rcond=None)[0]
    epochs = 60 if batch_size == 10 else 800
    rate = LearningRateSGD(0.1, learning_rate="cosine", total=epochs)
    trained = OrtGradientForwardBackwardOptimizer(
        linear(4), learning_rate=rate, max_iter=epochs, batch_size=batch_size, random_state=0
    )
    trained.fit(x, y)
    got = np.r_[trained.trained_coef_["coef"].ravel(), trained.trained_coef_["intercept"].ravel()]
    np.testing.assert_allclose(got, solution, atol=1e-3)


@pytest.mark.parametrize("pickled", [False, True])
def test_warm_start_goes_on_to_the_same_bits_also_after_pickling(pickled):
    import pickle

    x, y = table(dtype=np.float32)
    whole = OrtGradientForwardBackwardOptimizer(
        mlp([5, 4, 1]), learning_rate=LearningRateSGDNesterov(0.02), max_iter=10, random_state=5, warm_start=True
    )
    part = copy.deepcopy(whole)
    whole.fit(x, y)
    part.max_iter = 4
    part.fit(x, y)
    if pickled:
        part = pickle.loads(pickle.dumps(part))
    part.max_iter = 6
    part.fit(x, y)
    for a, b in zip(whole.get_state() + whole.get_state("grad"), part.get_state() + part.get_state("grad"), strict=True):
        assert np.array_equal(a, b)
    assert any(np.any(v != 0) for v in whole.get_state("grad"))


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    x, y = table(dtype=np.float32)

    def weights(seed):
        return (
            OrtGradientForwardBackwardOptimizer(mlp([5, 4, 1]), learning_rate=0.05, max_iter=5, random_state=seed)
            .fit(x, y)
            .get_state()
        )

    first, second, other = weights(1), weights(1), weights(2)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_master_weights_keep_what_bfloat16_would_lose():
    model = linear(3)
    half = copy.deepcopy(model)
    for i, initializer in enumerate(half.graph.initializer):
        values = torch.from_numpy(onnx.numpy_helper.to_array(initializer).copy()).to(torch.bfloat16)
        half.graph.initializer[i].CopyFrom(
            onnx.TensorProto(
                name=initializer.name,
                data_type=onnx.TensorProto.BFLOAT16,
                dims=values.shape,
                raw_data=values.view(torch.int16).numpy().tobytes(),
            )
        )
    for value in [*half.graph.input, *half.graph.output]:
        value.type.tensor_type.elem_type = onnx.TensorProto.BFLOAT16
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    y = x @ torch.tensor([1.0, -1.0, 0.5]) + 1
    kept = OrtGradientForwardBackwardOptimizer(
        half,
        learning_rate=LearningRateSGD(0.005, learning_rate="constant"),
        max_iter=300,
        random_state=0,
        master_dtype=torch.float32,
        init="model",
    )
    kept.fit(x.to(torch.bfloat16), y)
    assert kept.train_losses_[-1] < 0.01
    got = kept.trained_coef_["coef"].float().ravel()
    torch.testing.assert_close(got, torch.tensor([1.0, -1.0, 0.5]), atol=0.05, rtol=0)
