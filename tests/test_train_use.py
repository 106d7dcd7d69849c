"""Training as it is used: combinations of options, changes between fits, labels, states, threads, opsets."""

import itertools
import pickle
import threading

import numpy as np
import onnx
import pytest
import torch
from train_models import linear, mlp, with_weights

from ortmod._errors import ModelError, OrtmodError, RunError, ShapeError
from ortmod.training import lowlevel
from ortmod.training.data_loader import OrtDataLoader
from ortmod.training.excs import ConvergenceError, DataError, ParameterError
from ortmod.training.grad_helper import DerivativeOptions, onnx_derivative
from ortmod.training.onnx_function import function_onnx_graph, get_supported_functions
from ortmod.training.onnx_helper import add_loss_output
from ortmod.training.optimizers import OrtGradientOptimizer
from ortmod.training.optimizers_partial import OrtGradientForwardBackwardOptimizer
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


@pytest.mark.parametrize(("loss", "columns"), [("log", 1), ("cross_entropy", 2)])
@pytest.mark.parametrize("labels", [[-1, 1], [1, 2], [0, -100], [0, 7]])
def test_labels_that_are_no_classes_are_refused_and_leave_the_weights(loss, columns, labels):
    y = np.resize(labels, 50)
    trained = partial(linear(3, columns), learning_loss=loss, warm_start=True).fit(X, y % 2)
    before = trained.get_state()
    for call in (trained.fit, trained.losses):
        with pytest.raises(DataError, match=rf'"label": got labels from {min(labels)} to {max(labels)}, expected 0 to 1'):
            call(X, y)
    with pytest.raises(DataError, match="expected 0 to 1"):
        trained.learning_loss.loss_gradient(y, np.zeros((50, columns), np.float32))
    for old, new in zip(before, trained.get_state(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.int32, np.uint64, np.float32, np.float64])
def test_labels_of_other_types_and_shapes_are_the_same_labels(dtype):
    y = (Y[:, 0] > 1).astype(np.int64)
    expected = partial(linear(3, 2), learning_loss="cross_entropy").fit(X, y).train_losses_
    for labels in (y.astype(dtype), y.astype(dtype)[:, None]):
        assert partial(linear(3, 2), learning_loss="cross_entropy").fit(X, labels).train_losses_ == expected
    binary = partial(learning_loss="log").fit(X, y[:, None]).train_losses_
    assert partial(learning_loss="log").fit(X, y.astype(dtype)).train_losses_ == binary
    score = X[:, :1]
    wanted = NegLogLearningLoss().loss_gradient(y[:, None], score)
    for got, one in zip(NegLogLearningLoss().loss_gradient(y.astype(dtype), score), wanted, strict=True):
        np.testing.assert_array_equal(got, one)


def test_labels_that_are_not_whole_are_refused_outside_of_a_fit_too():
    with pytest.raises(TypeError, match="not whole"):
        CrossEntropyLearningLoss().loss_gradient(np.full(50, 0.5), X[:, :2])


def test_weights_that_are_not_finite_are_refused_outside_of_a_fit_too():
    loss = SquareLearningLoss()
    for call in (loss.loss_gradient, loss.loss_scores):
        with pytest.raises(DataError, match='"weight"'):
            call(Y, Y, np.full(50, np.nan))
    np.testing.assert_allclose(loss.loss_scores(Y, Y + 1, np.arange(50.0)[:, None])[:, 0], np.arange(50) / 2, rtol=1e-4)


def test_classes_in_several_columns_are_refused_with_the_expected_shape():
    with pytest.raises(ShapeError, match=r"got shape \[50, 2\], expected \[50\]"):
        partial(linear(3, 2), learning_loss="cross_entropy").fit(X, np.eye(2)[np.arange(50) % 2])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (X.astype(np.float64) * 1e300, "beyond torch.float32"),
        (np.ma.masked_array(X, mask=X > 1), "masked"),
        (torch.from_numpy(X).to(torch.complex64), "real numbers"),
        (torch.from_numpy(X).to_sparse(), "dense"),
        (torch.empty(50, 3, device="meta"), "meta"),
    ],
)
def test_data_that_would_lose_something_is_refused(data, says):
    trained = partial().fit(X, Y)
    for call in (lambda: partial().fit(data, Y), lambda: trained.predict(data)):
        with pytest.raises((DataError, TypeError), match=rf'"X".*{says}|{says}') as info:
            call()
        assert isinstance(info.value, OrtmodError)


def test_long_doubles_are_taken():
    expected = partial().fit(X, Y).train_losses_
    assert partial().fit(X.astype(np.longdouble), Y.astype(np.longdouble)).train_losses_ == expected


@pytest.mark.parametrize(("y", "weight"), [(3.0, None), (Y, 2.0)])
def test_single_numbers_are_no_columns(y, weight):
    with pytest.raises(ShapeError):
        partial().fit(X, y, weight)


# Arguments.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("clip_norm", -1),
        ("clip_norm", float("nan")),
        ("clip_value", "a"),
        ("tol", "x"),
        ("n_iter_no_change", -1),
        ("random_state", "a"),
        ("random_state", 1.5),
        ("batch_size", 2**70),
        ("validation_every", float("nan")),
        ("validation_every", float("inf")),
        ("callback", 3),
        ("master_dtype", torch.int32),
        ("verbose", "x"),
        ("weights_to_train", [3]),
        ("learning_loss", []),
        ("learning_rate", float("inf")),
    ],
)
def test_arguments_that_do_not_fit_are_refused_at_once(name, value):
    with pytest.raises((ParameterError, TypeError), match=r"\[train\]") as info:
        partial(**{name: value})
    assert isinstance(info.value, OrtmodError)
    trained = partial()
    before = trained.get_params()
    with pytest.raises(OrtmodError):
        trained.set_params(max_iter=7, **{name: value})
    assert trained.get_params() == before


def test_parameters_change_all_or_none_also_inside():
    trained = partial(learning_rate=LearningRateSGD(0.25))
    for wrong in ({"clip_norm": -1}, {"learning_loss__convention": "other"}, {"other": 1}):
        with pytest.raises(ParameterError):
            trained.set_params(learning_rate__eta0=0.5, max_iter=9, **wrong)
        assert (trained.learning_rate.eta0, trained.max_iter) == (0.25, 3)
    assert trained.set_params(learning_rate__eta0=0.5, max_iter=9).learning_rate.eta0 == 0.5


def test_numbers_and_types_of_numpy_are_taken():
    expected = partial(learning_rate=0.125, max_iter=2).fit(X, Y).train_losses_
    got = partial(learning_rate=np.float32(0.125), max_iter=np.int64(2), batch_size=np.int32(10), random_state=np.int64(0))
    assert got.fit(X, Y).train_losses_ == expected
    assert LearningRateSGDNesterov(np.float32(0.5), momentum=np.float64(0.5)).value == 0.5
    for dtype in (np.float32, "float32", torch.float32):
        partial(master_dtype=dtype).fit(X, Y)


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
