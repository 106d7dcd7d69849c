"""Training as it is used: combinations of options, changes between fits, labels, states, threads, opsets."""

import itertools
import pickle
import threading

import numpy as np
import onnx
import pytest
import torch
from train_models import linear, mlp, with_weights

from ortmod._errors import ModelError, OrtmodError, ShapeError
from ortmod.training.onnx_helper import add_loss_output
from ortmod.training.optimizers import OrtGradientOptimizer
from ortmod.training.optimizers_partial import OrtGradientForwardBackwardOptimizer
from ortmod.training.ortgradient import OrtGradientForwardBackward
from ortmod.training.sgd_learning_loss import (
    HuberLearningLoss,
    SquareLearningLoss,
)
from ortmod.training.sgd_learning_penalty import ElasticLearningPenalty
from ortmod.training.sgd_learning_rate import LearningRateAdamW, LearningRateSGD, LearningRateSGDNesterov

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(50, 3)).astype(np.float32)
Y = (X @ [1.0, 2.0, 3.0] + 1).astype(np.float32)[:, None]


def partial(model=None, **options):
    options = {"max_iter": 3, "random_state": 0, "init": "model", **options}
    return OrtGradientForwardBackwardOptimizer(linear(3) if model is None else model, **options)


def with_values(model, values) -> onnx.ModelProto:
    for initializer in model.graph.initializer:
        initializer.CopyFrom(onnx.numpy_helper.from_array(values[initializer.name], initializer.name))
    return model


def two_outputs() -> onnx.ModelProto:
    weights = {"u": np.ones((3, 1), np.float32), "v": np.full((3, 1), 2, np.float32)}
    return with_weights("two (float[N, 3] X) => (float[N, 1] a, float[N, 1] b) { a = MatMul(X, u)\n b = MatMul(X, v) }", weights)


# Options together, against a loop in torch.


@pytest.mark.parametrize("seed", range(24))
def test_options_together_equal_a_loop_in_torch(seed):
    random = np.random.default_rng(seed)

    def one_of(*values):
        return values[random.integers(len(values))]

    rows, batch, accumulate = int(random.integers(5, 40)), int(random.integers(1, 45)), one_of(1, 2, 3)
    x, targets = random.normal(size=(rows, 3)), [random.normal(size=(rows, 2)), random.normal(size=(rows, 4))]
    weight = random.uniform(0.1, 3, rows)
    weight[random.integers(rows)] = 0
    convention, clip_norm, clip_value = one_of("onnxcustom", "sklearn", "torch"), one_of(0.0, 0.3), one_of(0.0, 0.1)
    kind, decay = one_of("sgd", "momentum", "nesterov", "adamw"), one_of(0.0, 0.1)
    schedule = {"learning_rate": one_of("constant", "invscaling"), "period": one_of("epoch", "update", "samples"), "power_t": 0.3}
    rate = {
        "sgd": lambda: LearningRateSGD(0.02, **schedule),
        "momentum": lambda: LearningRateSGDNesterov(0.02, momentum=0.8, nesterov=False, convention="torch", **schedule),
        "nesterov": lambda: LearningRateSGDNesterov(0.02, momentum=0.8, **schedule),
        "adamw": lambda: LearningRateAdamW(0.02, weight_decay=decay, **schedule),
    }[kind]()
    model = mlp([3, 4, 2], np.float64)
    model.graph.output.append(onnx.helper.make_tensor_value_info("a0", 11, [None, 4]))
    trained = partial(
        model,
        weights_to_train=["b1", "w0", "w1", "b0"],
        learning_loss=[SquareLearningLoss(), HuberLearningLoss(0.7)],
        learning_rate=rate,
        learning_penalty=ElasticLearningPenalty(0.1, 0.2, weights=["w*"], convention=convention),
        clip_norm=clip_norm,
        clip_value=clip_value,
        batch_size=batch,
        accumulate=accumulate,
        shuffle=False,
        warm_start=True,
        max_iter=1,
    )
    losses = []
    for epoch in range(3):
        losses += trained.fit(x, targets, weight).train_losses_
        if epoch == 1:
            trained = pickle.loads(pickle.dumps(trained))

    parameters = {i.name: torch.tensor(onnx.numpy_helper.to_array(i)).requires_grad_() for i in model.graph.initializer}
    first = {name: torch.zeros_like(p) for name, p in parameters.items()}
    second = {name: torch.zeros_like(p) for name, p in parameters.items()}
    tx, tw, (ty, tz) = torch.tensor(x), torch.tensor(weight), (torch.tensor(t) for t in targets)
    updates, samples, expected = 0, 0, []
    for epoch in range(3):
        before, total = samples, 0.0
        size = batch * accumulate
        for start in range(0, rows, size):
            part = slice(start, start + size)
            hidden = torch.tanh(tx[part] @ parameters["w0"] + parameters["b0"])
            d = hidden @ parameters["w1"] + parameters["b1"] - ty[part]
            huber = torch.nn.functional.huber_loss(hidden, tz[part], delta=0.7, reduction="none").sum(1)
            mass = tw[part].sum()
            loss = ((d * d / 2).sum(1) * tw[part] + huber * tw[part]).sum() / mass.clamp(min=1e-30)
            l2 = 0.2 if convention == "onnxcustom" else 0.1
            penalty = sum(0.1 * parameters[n].abs().sum() + l2 * (parameters[n] ** 2).sum() for n in ("w0", "w1"))
            loss = loss + (penalty if convention == "torch" else penalty / mass if mass > 0 else 0)
            total += (loss * mass).item()
            gradients = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
            norm = torch.sqrt(sum((g**2).sum() for g in gradients.values())).item()
            t = {"epoch": epoch, "update": updates, "samples": before}[schedule["period"]]
            a = 0.02 / (t + 1) ** 0.3 if schedule["learning_rate"] == "invscaling" else 0.02
            updates += 1
            with torch.no_grad():
                for name, p in parameters.items():
                    g = gradients[name] * (min(1.0, clip_norm / (norm + 1e-6)) if clip_norm else 1.0)
                    g = g.clamp(-clip_value, clip_value) if clip_value else g
                    if kind == "sgd":
                        p -= a * g
                    elif kind == "momentum":
                        first[name] = 0.8 * first[name] + g
                        p -= a * first[name]
                    elif kind == "nesterov":
                        first[name] = 0.8 * first[name] - a * g
                        p += 0.8 * first[name] - a * g
                    else:
                        first[name] = 0.9 * first[name] + 0.1 * g
                        second[name] = 0.999 * second[name] + 0.001 * g * g
                        root = (second[name] / (1 - 0.999**updates)).sqrt() + 1e-8
                        p -= a * decay * p
                        p -= a / (1 - 0.9**updates) * first[name] / root
            samples += len(tx[part])
        expected.append(total / weight.sum())
    np.testing.assert_allclose(losses, expected, rtol=1e-10)
    for name, value in trained.trained_coef_.items():
        np.testing.assert_allclose(value, parameters[name].detach(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("convention", ["onnxcustom", "sklearn"])
def test_a_batch_of_rows_without_weight_has_no_penalty_either(convention):
    weight = np.ones(50)
    weight[:10] = 0
    options = {"learning_penalty": ElasticLearningPenalty(0.01, 0.01, convention=convention), "shuffle": False, "max_iter": 1}
    model = with_weights("n (float[N, 3] X) => (float[N, 1] y) { y = MatMul(X, w) }", {"w": np.ones((3, 1), np.float32)})
    skipped = partial(model, **options).fit(X, Y, weight)
    other = partial(model, **options).fit(X[10:], Y[10:], weight[10:])
    np.testing.assert_array_equal(skipped.trained_coef_["w"], other.trained_coef_["w"])


# Labels and data.


def test_losses_of_outputs_may_be_given_by_name_or_left_out():
    alone = partial(two_outputs(), weights_to_train=["v"], learning_loss={"b": "square"}).fit(X, Y)
    listed = partial(two_outputs(), weights_to_train=["v"], learning_loss=[None, "square_error"]).fit(X, Y)
    changed = partial(two_outputs(), weights_to_train=["v"]).set_params(learning_loss=(None, "square")).fit(X, Y)
    one = with_weights("n (float[N, 3] X) => (float[N, 1] b) { b = MatMul(X, v) }", {"v": np.full((3, 1), 2, np.float32)})
    expected = partial(one).fit(X, Y)
    for trained in (alone, listed, changed, pickle.loads(pickle.dumps(alone))):
        np.testing.assert_array_equal(trained.trained_coef_["v"], expected.trained_coef_["v"])
        np.testing.assert_array_equal(trained.losses(X, Y), expected.losses(X, Y))
    with pytest.raises(ModelError, match=r"learning_loss: got \['c'\], expected outputs of floats: a, b"):
        partial(two_outputs(), learning_loss={"c": "square"}).fit(X, Y)


def test_losses_and_score_count_every_target():
    trained = partial(two_outputs(), learning_loss=["square", "absolute"], max_iter=0).fit(X, [Y, Y])
    a, b = (X.sum(1) * k - Y[:, 0] for k in (1, 2))
    expected = a * a / 2 + abs(b)
    weight = np.arange(50) + 1.0
    np.testing.assert_allclose(trained.losses(X, [Y, Y]), expected, rtol=1e-5)
    np.testing.assert_allclose(trained.losses(X, [Y, Y], weight), expected * weight, rtol=1e-5)
    np.testing.assert_allclose(trained.score(X, [Y, Y]), -expected.mean(), rtol=1e-5)
    with pytest.raises(ShapeError):
        trained.losses(X, [Y])


def test_a_graph_that_gives_a_mean_has_its_own_losses_of_the_rows():
    text = """mean (float[N, 3] X, float[N, 1] label, float[N] weight) => (float loss) {
        d = Sub(p, label)
        s = Mul(d, d)
        c = Constant <value = int64[2] {-1, 1}> ()
        w = Reshape(weight, c)
        ws = Mul(s, w)
        loss = ReduceMean <keepdims = 0> (ws)
    }""".replace("d = Sub", "p = MatMul(X, coef)\n d = Sub", 1)
    model = with_weights(text, {"coef": np.ones((3, 1), np.float32)})
    trained = OrtGradientOptimizer(model, ["coef"], loss_reduction="mean", max_iter=0, init="model")
    weight = np.arange(50) + 1.0
    expected = weight * (X.sum(1) - Y[:, 0]) ** 2
    np.testing.assert_allclose(trained.fit(X, Y, weight).losses(X, Y, weight), expected, rtol=1e-4)


def test_predictions_come_in_the_kind_that_they_are_asked_with():
    trained = partial().fit(torch.from_numpy(X), torch.from_numpy(Y))
    assert isinstance(trained.predict(X), np.ndarray)
    assert isinstance(trained.predict(torch.from_numpy(X)), torch.Tensor)
    assert isinstance(pickle.loads(pickle.dumps(trained)).get_state()[0], torch.Tensor)


# What is trained by default.


def test_constants_and_running_statistics_are_not_trained_by_default():
    text = """net (float[N, 3] X) => (float[N, 1] y) {
        half = Constant <value = float {0.5}> ()
        h = MatMul(X, w)
        n = BatchNormalization(h, scale, bias, mean, variance)
        y = Mul(n, half)
    }"""
    weights = {"w": np.ones((3, 1), np.float32)} | {n: np.zeros(1, np.float32) for n in ("bias", "mean")}
    model = with_weights(text, weights | {n: np.ones(1, np.float32) for n in ("scale", "variance")})
    assert set(partial(model).fit(X, Y).trained_coef_) == {"w", "scale", "bias"}
    assert set(OrtGradientForwardBackward(model).weights_to_train) == {"w", "scale", "bias"}


# Changes between fits.


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize(
    ("first", "then"),
    [
        (LearningRateSGDNesterov(0.01), LearningRateAdamW(0.01)),
        (LearningRateSGDNesterov(0.01), LearningRateSGDNesterov(0.01, learning_rate="constant", convention="torch")),
        (LearningRateSGDNesterov(0.01, convention="torch"), LearningRateSGDNesterov(0.01, learning_rate="constant")),
        (LearningRateAdamW(0.01), LearningRateSGD(0.01, learning_rate="constant")),
    ],
)
def test_another_update_starts_with_states_of_its_own(pickled, first, then):
    trained = partial(learning_rate=first, warm_start=True).fit(X, Y)
    weights = dict(trained.trained_coef_)
    if pickled:
        trained = pickle.loads(pickle.dumps(trained))
    alone = {"learning_rate": then, "batch_size": 0, "shuffle": False, "max_iter": 2}
    trained.set_params(**alone)
    np.testing.assert_allclose(trained.predict(X), X @ weights["coef"] + weights["intercept"], rtol=1e-4, atol=1e-5)
    expected = partial(with_values(linear(3), weights), **alone).fit(X, Y)
    for name, value in trained.fit(X, Y).trained_coef_.items():
        np.testing.assert_array_equal(value, expected.trained_coef_[name])


def test_velocities_of_the_other_convention_do_not_pull_the_other_way():
    for first, then in itertools.permutations(("onnxcustom", "torch")):
        options = {"learning_rate": "constant", "momentum": 0.9}
        rate = LearningRateSGDNesterov(0.001, convention=first, **options)
        trained = partial(learning_rate=rate, warm_start=True).fit(X, Y)
        assert any(np.abs(v).max() > 0 for v in trained.get_state("grad"))
        trained.set_params(learning_rate=LearningRateSGDNesterov(0.0, convention=then, **options), max_iter=1)
        before = trained.trained_coef_
        for name, value in trained.fit(X, Y).trained_coef_.items():  # at rate 0 only a velocity would move weights
            np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("full", [False, True])
def test_a_state_that_does_not_fit_changes_nothing(full):
    if full:
        trained = OrtGradientOptimizer(add_loss_output(linear(3)), ["intercept", "coef"], max_iter=1, random_state=0).fit(X, Y)
    else:
        trained = partial().fit(X, Y)
    before = {name: value.copy() for name, value in trained.trained_coef_.items()}
    for values in ((np.zeros(1), np.zeros((7, 7))), (np.zeros(1), np.full((3, 1), np.nan))):
        with pytest.raises(OrtmodError):
            trained.set_state(dict(zip(("intercept", "coef"), values, strict=True)) if full else list(values))
        for name, value in trained.trained_coef_.items():
            np.testing.assert_array_equal(value, before[name])


def test_fits_with_dropout_in_several_threads_draw_each_their_own_numbers():
    text = """net (float[N, 3] X) => (float[N, 1] y) {
        ratio = Constant <value = float {0.5}> ()
        training = Constant <value = bool {1}> ()
        h = MatMul(X, a)
        d = Dropout(h, ratio, training)
        y = MatMul(d, b)
    }"""
    model = with_weights(text, {"a": np.full((3, 8), 0.1, np.float32), "b": np.full((8, 1), 0.1, np.float32)})
    x, y = np.repeat(X, 20, 0), np.repeat(Y, 20, 0)

    def fitted(seed):
        return partial(model, random_state=seed, max_iter=20).fit(x, y).get_state()

    expected = {seed: fitted(seed) for seed in range(3)}
    outside, got = torch.get_rng_state(), {}
    threads = [threading.Thread(target=lambda s=seed: got.__setitem__(s, fitted(s))) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(3):
        for one, other in zip(got[seed], expected[seed], strict=True):
            np.testing.assert_array_equal(one, other)
    assert torch.equal(outside, torch.get_rng_state())


@pytest.mark.parametrize("change", ["validation", "loss"])
def test_a_warm_start_that_looks_at_another_loss_forgets_the_best_one(change):
    options = {"early_stopping": True, "n_iter_no_change": 3, "learning_rate": 0.1, "validation_every": 1, "warm_start": True}
    trained = partial(max_iter=200, tol=1e-4, **options).fit(X, Y)
    assert trained.n_iter_ < 200
    far = [np.full_like(v, 5) for v in trained.get_state()]
    trained.set_state(far)
    if change == "loss":
        trained.set_params(learning_loss="huber").fit(X, Y)
    else:
        trained.fit(X, Y, None, X[:10], Y[:10] + 1)
    assert trained.n_iter_ > 5
    same = partial(max_iter=4, n_iter_no_change=3, early_stopping=True, warm_start=True).fit(X, Y)
    best = same._engine_.trainer.progress["best"]
    assert same.set_params(max_iter=0).fit(X, Y)._engine_.trainer.progress["best"] == best


# Callbacks.


def test_a_callback_sees_and_may_keep_the_state_of_its_epoch():
    kept, weights = [], []

    def callback(report):
        weights.append(trained.get_state()[1].copy())
        trained.callback = None
        kept.append(pickle.dumps(trained))
        trained.callback = callback

    options = {"warm_start": True, "learning_rate": LearningRateSGDNesterov(0.01), "random_state": 3}
    trained = partial(callback=callback, max_iter=4, **options)
    trained.fit(X, Y)
    assert len(weights) == 4 and len({w.tobytes() for w in weights}) == 4
    resumed = pickle.loads(kept[1])
    np.testing.assert_array_equal(resumed.get_state()[1], weights[1])
    resumed.set_params(max_iter=2).fit(X, Y)
    assert [r["epoch"] for r in resumed.history_] == [2, 3]
    for one, other in zip(resumed.get_state(), trained.get_state(), strict=True):
        np.testing.assert_array_equal(one, other)


# Schedules and graphs.


@pytest.mark.parametrize(("patience", "tol"), [(2, 1e-3), (5, 1e-3), (2, 0.1)])
def test_the_adaptive_rate_equals_sgd_regressor_which_waits_one_epoch_less(patience, tol):
    linear_model = pytest.importorskip("sklearn.linear_model")
    x = X.astype(np.float64)
    y = x @ [1.0, 2.0, 3.0] + 1 + np.random.default_rng(1).normal(size=50)
    options = {"learning_rate": "adaptive", "eta0": 0.05, "max_iter": 100, "shuffle": False, "tol": tol, "penalty": None}
    expected = linear_model.SGDRegressor(n_iter_no_change=patience, **options).fit(x, y)
    rate = LearningRateSGD(0.05, learning_rate="adaptive")
    options = {"batch_size": 1, "max_iter": 100, "shuffle": False, "tol": tol, "n_iter_no_change": patience - 1}
    trained = partial(linear(3, 1, np.float64), learning_rate=rate, **options).fit(x, y)
    assert trained.n_iter_ == expected.n_iter_ < 100
    np.testing.assert_allclose(trained.trained_coef_["coef"][:, 0], expected.coef_, rtol=1e-12)
