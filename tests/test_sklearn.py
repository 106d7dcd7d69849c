"""Estimators: scikit-learn's own checks, its solvers' weights, its tools, and what goes wrong."""

import copy
import pickle
import re
import subprocess
import sys
import types
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
import onnx
import onnxruntime
import pytest
import skl2onnx
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import SGDClassifier, SGDRegressor
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator
from train_models import linear, mlp

from ortmod import DTypeError, ModelError, OrtmodError, ShapeError
from ortmod.sklearn import DataError, DivergenceError, OnnxClassifier, OnnxRegressor, ParameterError
from ortmod.training import (
    BaseLearningLoss,
    ConvergenceError,
    ElasticLearningPenalty,
    LearningRateSGD,
    NegLogLearningLoss,
)

STEPS, BATCH = 50, 8
EPOCHS = STEPS // 10


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def table(rows: int = 80, features: int = 5, dtype=np.float64):
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, features)).astype(dtype)
    y = np.sin(x.sum(1)) + 0.1 * random.normal(size=rows)
    return x, y.astype(dtype)


def classes(y):
    return np.array(["low", "middle", "high"])[np.digitize(y, [-0.3, 0.4])]


def same(a, b):
    return all(np.array_equal(v, w) for v, w in zip(a.coefs_ + a.intercepts_, b.coefs_ + b.intercepts_, strict=True))


# scikit-learn's own checks, none of them expected to fail


def identity(check):
    return getattr(getattr(check, "func", check), "__name__", str(check)) + repr(getattr(check, "keywords", ""))


CHECKED = [
    OnnxRegressor(),
    OnnxClassifier(),
    OnnxRegressor(hidden_layer_sizes=(), learning_rate_init=0.02, loss="huber", penalty="elasticnet"),
    OnnxClassifier(hidden_layer_sizes=(), learning_rate_init=0.02, loss="binary_log_loss", solver="adamw"),
]
CHECKS = [(estimator, check) for estimator in CHECKED for _, check in estimator_checks_generator(estimator, mark=None)]


@pytest.mark.parametrize("estimator, check", CHECKS, ids=lambda v: repr(v) if hasattr(v, "fit") else identity(v))
def test_scikit_learns_check(estimator, check):
    check(clone(estimator))


def test_both_estimators_are_checked_by_all_that_scikit_learn_has():
    names = {type(e).__name__: [identity(c) for f, c in CHECKS if f is e] for e in CHECKED}
    assert len(names["OnnxRegressor"]) >= 55 and len(names["OnnxClassifier"]) >= 60
    assert any("sample_weight_equivalence" in n for n in names["OnnxClassifier"])


# The weights of scikit-learn's solvers, computed through its own code

SOLVERS = {
    "sgd": dict(solver="sgd", momentum=0.0, nesterovs_momentum=False),
    "momentum": dict(solver="sgd", momentum=0.9, nesterovs_momentum=False),
    "nesterov": dict(solver="sgd", momentum=0.9, nesterovs_momentum=True),
    "invscaling": dict(solver="sgd", learning_rate="invscaling", power_t=0.5),
    "adaptive": dict(solver="sgd", learning_rate="adaptive", tol=10.0, n_iter_no_change=1),
    "adam": dict(solver="adam"),
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", ["regression", "outputs", "binary", "classes", "labels"])
@pytest.mark.parametrize("activation", ["tanh", "relu", "logistic"])
def test_fifty_steps_equal_scikit_learns_network(solver, kind, activation):
    x, y = table()
    target = {
        "regression": y,
        "outputs": np.c_[y, -y, x[:, 0]],
        "binary": y > 0,
        "classes": classes(y),
        "labels": np.c_[y > 0, x[:, 0] > 0, x[:, 1] > y].astype(int),
    }[kind]
    options = dict(
        hidden_layer_sizes=(7, 4),
        activation=activation,
        batch_size=BATCH,
        shuffle=False,
        alpha=0.3,
        learning_rate_init=0.05,
        random_state=1,
        max_iter=EPOCHS,
        tol=0,
        n_iter_no_change=1000,
    )
    options |= SOLVERS[solver]
    ours, theirs = (OnnxRegressor, MLPRegressor) if kind in ("regression", "outputs") else (OnnxClassifier, MLPClassifier)
    a, b = ours(**options).fit(x, target), theirs(**options).fit(x, target)
    assert a.n_iter_ == b.n_iter_ == EPOCHS
    for got, expected in zip(a.coefs_ + a.intercepts_, b.coefs_ + b.intercepts_, strict=True):
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
    assert np.array_equal(a.predict(x), b.predict(x)) if ours is OnnxClassifier else np.allclose(a.predict(x), b.predict(x))
    if ours is OnnxClassifier:
        np.testing.assert_allclose(a.predict_proba(x), b.predict_proba(x), atol=1e-6)
    if kind in ("binary", "classes"):
        np.testing.assert_allclose(a.loss_curve_, b.loss_curve_, rtol=1e-6)


@pytest.mark.parametrize("penalty", [None, "l2"])
@pytest.mark.parametrize("learning_rate", ["constant", "invscaling", "optimal"])
@pytest.mark.parametrize(
    "loss, kind",
    [
        ("squared_error", "regression"),
        ("epsilon_insensitive", "regression"),
        ("log_loss", "binary"),
        ("hinge", "binary"),
        ("squared_hinge", "binary"),
        ("hinge", "classes"),
        ("log_loss", "classes"),
    ],
)
def test_fifty_steps_equal_scikit_learns_sgd(loss, kind, learning_rate, penalty):
    x, y = table(STEPS)
    alpha = 0.05
    common = dict(loss=loss, shuffle=False, max_iter=1, tol=None, random_state=0)
    theirs = (SGDRegressor if kind == "regression" else SGDClassifier)(
        penalty=penalty, alpha=alpha, learning_rate=learning_rate, eta0=0.02, power_t=0.25, **common
    )
    target = {"regression": y, "binary": np.where(y > 0, "yes", "no"), "classes": classes(y)}[kind]
    theirs.fit(x, target)
    rate = LearningRateSGD(0.02, alpha=alpha, power_t=0.25, learning_rate=learning_rate, period="update", convention="sklearn")
    if kind == "classes" and loss == "log_loss":
        common["loss"] = "binary_log_loss"
    ours = (OnnxRegressor if kind == "regression" else OnnxClassifier)(
        hidden_layer_sizes=(), learning_rate=rate, alpha=alpha if penalty else 0.0, penalty=penalty, batch_size=1, **common
    )
    ours.fit(x, target)
    np.testing.assert_allclose(ours.coefs_[0].T, np.atleast_2d(theirs.coef_), rtol=1e-9, atol=1e-5)
    np.testing.assert_allclose(ours.intercepts_[0], theirs.intercept_, rtol=1e-9, atol=1e-5)
    if kind != "regression":
        assert np.array_equal(ours.predict(x), theirs.predict(x))
        if loss == "log_loss":
            np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=1e-6)


@pytest.mark.parametrize("kind", ["regression", "classes"])
def test_the_weighted_steps_of_a_network_equal_scikit_learns(kind):
    x, y = table()
    weight = np.random.default_rng(1).uniform(0.1, 2, len(x))
    options = dict(
        hidden_layer_sizes=(6,),
        batch_size=BATCH,
        shuffle=False,
        solver="sgd",
        learning_rate_init=0.05,
        alpha=0.1,
        max_iter=EPOCHS,
        random_state=0,
    )
    ours, theirs, target = (OnnxRegressor, MLPRegressor, y) if kind == "regression" else (OnnxClassifier, MLPClassifier, classes(y))
    a, b = ours(**options).fit(x, target, weight), theirs(**options).fit(x, target, weight)
    for got, expected in zip(a.coefs_ + a.intercepts_, b.coefs_ + b.intercepts_, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_early_stopping_holds_out_the_rows_that_scikit_learn_holds_out():
    x, y = table()
    options = dict(
        hidden_layer_sizes=(6,),
        early_stopping=True,
        solver="sgd",
        shuffle=False,
        alpha=0.1,
        batch_size=BATCH,
        max_iter=3,
        random_state=4,
    )
    a, b = OnnxRegressor(**options).fit(x, y), MLPRegressor(**options).fit(x, y)
    assert len(a.validation_losses_) == len(a.loss_curve_) == 3
    np.testing.assert_allclose(a.loss_curve_, b.loss_curve_, rtol=1e-6)
    np.testing.assert_allclose(np.concatenate(a.coefs_, None), np.concatenate(b.coefs_, None), atol=1e-5)


# Graphs


def test_a_given_graph_trains_from_its_own_weights():
    x, y = table(dtype=np.float32)
    model = mlp([5, 7, 1])
    start = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    trained = OnnxRegressor(model, learning_rate_init=0.02, max_iter=100, random_state=0).fit(x, y)
    assert trained.loss_curve_[-1] < 0.6 * trained.loss_curve_[0]
    assert sorted(trained.weights_) == sorted(start) and [w.shape for w in trained.coefs_] == [(5, 7), (7, 1)]
    (out,) = onnxruntime.InferenceSession(trained.onnx_.SerializeToString()).run(None, {"X": x})
    np.testing.assert_allclose(out.ravel(), trained.predict(x), atol=1e-5)
    assert {i.name: onnx.numpy_helper.to_array(i).tolist() for i in model.graph.initializer} == {
        k: v.tolist() for k, v in start.items()
    }


def test_frozen_weights_of_a_graph_stay():
    x, y = table(dtype=np.float32)
    model = mlp([5, 7, 1])
    first = onnx.numpy_helper.to_array(next(i for i in model.graph.initializer if i.name == "w0"))
    trained = OnnxRegressor(model, trainable=["*1"], max_iter=5).fit(x, y)
    assert sorted(trained.weights_) == ["b1", "w1"]
    kept = next(i for i in trained.onnx_.graph.initializer if i.name == "w0")
    assert np.array_equal(onnx.numpy_helper.to_array(kept), first)
    assert sorted(OnnxRegressor(model, frozen="*0", max_iter=5).fit(x, y).weights_) == ["b1", "w1"]


@pytest.mark.parametrize("columns", [1, 2, 3])
@pytest.mark.parametrize("loss", ["log_loss", "binary_log_loss", "hinge"])
def test_the_file_of_a_classifier_says_labels_and_probabilities(columns, loss):
    x, y = table(dtype=np.float32)
    target = classes(y) if columns == 3 else np.where(y > 0, "b", "a")
    trained = OnnxClassifier(mlp([5, 6, columns]), loss=loss, learning_rate_init=0.02, max_iter=60, random_state=0).fit(x, target)
    assert trained.score(x, target) > 0.6
    session = onnxruntime.InferenceSession(trained.onnx_.SerializeToString())
    out = dict(zip([o.name for o in session.get_outputs()], session.run(None, {"X": x}), strict=True))
    assert np.array_equal(out["label"], trained.predict(x))
    assert ("probabilities" in out) == (loss != "hinge") == hasattr(trained, "predict_proba")
    if loss != "hinge":
        np.testing.assert_allclose(out["probabilities"], trained.predict_proba(x), atol=1e-5)


def test_the_file_of_a_network_with_several_labels_and_with_numbers():
    x, y = table(dtype=np.float32)
    labels = np.c_[y > 0, x[:, 0] > 0].astype(int)
    for target in (labels, np.digitize(y, [-0.3, 0.4]) * 10):
        trained = OnnxClassifier(hidden_layer_sizes=(6,), max_iter=30, learning_rate_init=0.05, random_state=0).fit(x, target)
        session = onnxruntime.InferenceSession(trained.onnx_.SerializeToString())
        label, probabilities = session.run(["label", "probabilities"], {"X": x})
        assert np.array_equal(label, trained.predict(x))
        np.testing.assert_allclose(probabilities, trained.predict_proba(x), atol=1e-5)


def converted(estimator, x, **options):
    return skl2onnx.to_onnx(
        estimator, x[:1], target_opset={"": 15, "ai.onnx.ml": 3}, options={id(estimator): options} if options else None
    )


@pytest.mark.parametrize("scaled", [False, True])
def test_a_converted_model_whose_weights_are_attributes(scaled):
    x, y = table(dtype=np.float32)
    last = SGDRegressor(max_iter=1, tol=None, random_state=0)
    fitted = (make_pipeline(StandardScaler(), last) if scaled else last).fit(x, y)
    model = converted(fitted, x)
    assert not model.graph.initializer
    trained = OnnxRegressor(model, learning_rate_init=0.01, max_iter=60, random_state=0).fit(x, y)
    assert trained.score(x, y) > fitted.score(x, y) and len(trained.weights_) == 2
    (out,) = onnxruntime.InferenceSession(trained.onnx_.SerializeToString()).run(None, {"X": x})
    np.testing.assert_allclose(out.ravel(), trained.predict(x), atol=1e-5)
    assert same(pickle.loads(pickle.dumps(trained)), trained)


def test_probabilities_are_no_scores():
    x, y = table(dtype=np.float32)
    several = MLPClassifier(hidden_layer_sizes=(6,), max_iter=20, random_state=0).fit(x, classes(y))
    model = converted(several, x, zipmap=False)
    with pytest.raises(ModelError, match="'probabilities' gives probabilities .*expected raw scores"):
        OnnxClassifier(model).fit(x, classes(y))
    two = MLPClassifier(hidden_layer_sizes=(6,), max_iter=20, random_state=0).fit(x, y > 0)
    with pytest.raises(ModelError, match="gives probabilities"):
        OnnxClassifier(converted(two, x, zipmap=False)).fit(x, y > 0)
    trained = OnnxClassifier(model, output="add_result1", max_iter=1, learning_rate_init=1e-9).fit(x, classes(y))
    np.testing.assert_allclose(trained.predict_proba(x), several.predict_proba(x), atol=1e-5)
    session = onnxruntime.InferenceSession(trained.onnx_.SerializeToString())
    assert [o.name for o in session.get_outputs()] == ["add_result1", "label", "probabilities"]
    assert np.array_equal(session.run(["label"], {"X": x})[0], several.predict(x))


def test_running_statistics_belong_to_the_estimator():
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 15]>
        g (float[N, 5] X) => (float[N, 3] y) {
            p = MatMul(X, w0)
            n = BatchNormalization(p, scale, bias, mean, var)
            r = Relu(n)
            y = MatMul(r, w1)
        }""")
    random = np.random.default_rng(0)
    for name, value in {
        "w0": random.normal(size=(5, 6)),
        "scale": np.ones(6),
        "bias": np.zeros(6),
        "mean": np.zeros(6),
        "var": np.ones(6),
        "w1": random.normal(size=(6, 3)),
    }.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value.astype(np.float32), name))
    x, y = table(dtype=np.float32)
    x = 3 * x + 1
    trained = OnnxClassifier(model, batch_size=20, learning_rate_init=0.02, max_iter=30, random_state=0).fit(x, classes(y))
    assert sorted(trained.weights_) == ["bias", "scale", "w0", "w1"]
    mean = next(i for i in trained.onnx_.graph.initializer if i.name == "mean")
    assert np.abs(onnx.numpy_helper.to_array(mean)).max() > 0.1
    session = onnxruntime.InferenceSession(trained.onnx_.SerializeToString())
    np.testing.assert_allclose(session.run(["probabilities"], {"X": x})[0], trained.predict_proba(x), atol=1e-5)
    copied = pickle.loads(pickle.dumps(trained))
    a, b = (e.partial_fit(x, classes(y)).predict_proba(x) for e in (trained, copied))
    assert np.array_equal(a, b)


def test_a_program_that_torch_exported_is_a_model():
    program = types.SimpleNamespace(model_proto=mlp([5, 7, 1]), unpicklable=lambda: None)
    x, y = table(dtype=np.float32)
    a, b = (OnnxRegressor(m, max_iter=3, random_state=0).fit(x, y) for m in (program, program.model_proto))
    assert same(a, b) and same(pickle.loads(pickle.dumps(a)).partial_fit(x, y), b.partial_fit(x, y))


def test_other_outputs_of_a_graph_stay_in_the_file():
    x, y = table(dtype=np.float32)
    model = mlp([5, 7, 1])
    model.graph.output.append(onnx.helper.make_tensor_value_info("a0", onnx.TensorProto.FLOAT, ["N", 7]))
    trained = OnnxRegressor(model, output="y", max_iter=5).fit(x, y)
    assert [o.name for o in trained.onnx_.graph.output] == ["y", "a0"]
    out, hidden = onnxruntime.InferenceSession(trained.onnx_.SerializeToString()).run(["y", "a0"], {"X": x})
    np.testing.assert_allclose(out.ravel(), trained.predict(x), atol=1e-5)
    np.testing.assert_allclose(hidden @ trained.weights_["w1"] + trained.weights_["b1"], out, atol=1e-5)


def test_the_types_of_rows_decide_those_of_a_network():
    for dtype in (np.float32, np.float64):
        x, y = table(dtype=dtype)
        trained = OnnxRegressor(hidden_layer_sizes=(3,), max_iter=2).fit(x, y)
        assert trained.predict(x).dtype == dtype and all(w.dtype == dtype for w in trained.coefs_)
    assert OnnxRegressor(max_iter=2).fit(np.ones((4, 2), int), [1, 2, 3, 4]).predict([[1, 1]]).dtype == np.float64


def test_a_loss_a_penalty_and_a_rate_of_the_user():
    class Cube(BaseLearningLoss):
        def build_onnx_function(self, opset=None, dtype=np.float32):
            t = "float" if dtype == np.float32 else "double"
            return f"""<ir_version: 8, opset_import: ["" : 15]>
                cube ({t}[n, k] expected, {t}[n, k] predicted) => ({t} loss) {{
                d = Sub(predicted, expected)
                a = Abs(d)
                s = Mul(d, d)
                c = Mul(a, s)
                loss = ReduceSum<keepdims=0>(c)
            }}"""

    x, y = table()
    plain = OnnxRegressor(hidden_layer_sizes=(), loss=Cube(), learning_rate=LearningRateSGD(0.05), max_iter=50, random_state=0)
    held = clone(plain).set_params(penalty=ElasticLearningPenalty(0.1, 0.0))
    plain.fit(x, y)
    held.fit(x, y)
    assert plain.loss_curve_[-1] < plain.loss_curve_[0]
    assert np.abs(held.coefs_[0]).sum() < np.abs(plain.coefs_[0]).sum()
    assert clone(plain).set_params(learning_rate__eta0=0.5).learning_rate.eta0 == 0.5
    with pytest.raises(ModelError, match="takes no sample weights"):
        plain.fit(x, y, np.ones(len(x)))


# How fits go on


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_warm_start_goes_on_to_the_same_bits_also_after_pickling(pickled, solver):
    x, y = table(dtype=np.float32)
    options = dict(hidden_layer_sizes=(6,), warm_start=True, random_state=5, batch_size=16, tol=None, solver=solver)
    whole = OnnxRegressor(max_iter=10, **options).fit(x, y)
    part = OnnxRegressor(max_iter=4, **options).fit(x, y)
    if pickled:
        part = pickle.loads(pickle.dumps(part))
    part.set_params(max_iter=6).fit(x, y)
    assert same(whole, part) and np.array_equal(whole.predict(x), part.predict(x))
    assert part.loss_curve_ == whole.loss_curve_ and part.n_iter_ == 6 and part.t_ == whole.t_ == 800


def test_partial_fit_is_an_epoch():
    x, y = table()
    whole = OnnxClassifier(hidden_layer_sizes=(6,), max_iter=3, random_state=2, batch_size=16, tol=None).fit(x, y > 0)
    part = OnnxClassifier(hidden_layer_sizes=(6,), random_state=2, batch_size=16, tol=None)
    for _ in range(3):
        part.partial_fit(x, y > 0, classes=[False, True])
    assert same(whole, part) and part.loss_curve_ == whole.loss_curve_
    engine = part._session.engine()
    part.partial_fit(x[:5], y[:5] > 0)
    assert part._session.engine() is engine
    part.set_params(learning_rate_init=0.5).partial_fit(x[:5], y[:5] > 0)
    assert part._session.engine() is not engine and not same(whole, part)


def test_without_warm_start_a_fit_begins_anew():
    x, y = table()
    estimator = OnnxRegressor(hidden_layer_sizes=(6,), max_iter=3, random_state=2).fit(x, y)
    first = copy.deepcopy(estimator)
    assert same(first, estimator.fit(x, y))
    assert not same(first, OnnxRegressor(hidden_layer_sizes=(6,), max_iter=3, random_state=3).fit(x, y))


def test_a_random_state_object_goes_on_drawing():
    x, y = table()
    state = np.random.RandomState(0)
    a = OnnxRegressor(hidden_layer_sizes=(6,), max_iter=3, random_state=state).fit(x, y)
    b = OnnxRegressor(hidden_layer_sizes=(6,), max_iter=3, random_state=state).fit(x, y)
    assert not same(a, b)


@pytest.mark.parametrize("kind", ["regression", "binary", "classes", "labels"])
def test_weighted_rows_equal_repeated_rows_and_no_weight_no_row(kind):
    x, y = table(40)
    target = {"regression": y, "binary": y > 0, "classes": classes(y), "labels": np.c_[y > 0, x[:, 0] > 0].astype(int)}[kind]
    counts = np.random.default_rng(3).integers(0, 4, size=len(x))
    cls = OnnxRegressor if kind == "regression" else OnnxClassifier
    options = dict(hidden_layer_sizes=(4,), max_iter=50, learning_rate_init=0.05, random_state=0, alpha=0.1, tol=None)
    weighted = cls(**options).fit(x, target, counts)
    repeated = cls(**options).fit(x.repeat(counts, 0), target.repeat(counts, 0))
    for a, b in zip(weighted.coefs_, repeated.coefs_, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(weighted.loss_curve_, repeated.loss_curve_, rtol=1e-9)


def test_early_stopping_keeps_the_best_weights_and_tol_ends_a_fit():
    x, y = table(300)
    early = OnnxRegressor(
        hidden_layer_sizes=(50,), solver="adam", learning_rate_init=0.02, early_stopping=True, max_iter=2000, random_state=0
    ).fit(x, y)
    assert 11 < early.n_iter_ < 2000
    best = int(np.argmin(early.validation_losses_))
    assert best < early.n_iter_ - 1 and early.best_loss_ == early.validation_losses_[best]
    shorter = clone(early).set_params(max_iter=best + 1).fit(x, y)
    assert same(early, shorter)
    flat = OnnxRegressor(hidden_layer_sizes=(), learning_rate_init=0.1, max_iter=2000).fit(x, y)
    assert flat.n_iter_ < 200
    assert OnnxRegressor(hidden_layer_sizes=(), learning_rate_init=0.1, max_iter=300, tol=None).fit(x, y).n_iter_ == 300


def test_a_callback_sees_each_epoch_and_ends_the_fit():
    x, y = table()
    seen = []

    def watch(report):
        seen.append(report)
        return len(seen) < 3

    trained = OnnxRegressor(hidden_layer_sizes=(4,), callback=watch, max_iter=50).fit(x, y)
    assert trained.n_iter_ == 3 and [r["loss"] for r in seen] == trained.loss_curve_
    assert all(r["gradient_norm"] > 0 for r in seen)


def test_a_callback_may_ask_the_estimator():
    x, y = table()
    scores = []
    trained = OnnxRegressor(hidden_layer_sizes=(4,), max_iter=5, random_state=0, learning_rate_init=0.01)
    trained.set_params(callback=lambda report: scores.append(trained.score(x, y)))
    trained.fit(x, y)
    assert len(set(scores)) == 5 and scores[-1] == trained.score(x, y)


def test_threads_predict_at_the_same_time():
    x, y = table(500)
    trained = OnnxRegressor(hidden_layer_sizes=(20,), max_iter=3).fit(x, y)
    expected = trained.predict(x)
    with ThreadPoolExecutor(8) as pool:
        for n, found in pool.map(lambda n: (n, trained.predict(x[:n])), [500, 100, 7, 320] * 40):
            np.testing.assert_allclose(found, expected[:n], rtol=1e-9)


@pytest.mark.parametrize("pickled", [False, True])
def test_dropout_draws_by_the_random_state(pickled):
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 15]>
        g (float[N, 5] X) => (float[N, 1] y) <float ratio = {0.5}, bool training = {1}> {
            p = MatMul(X, w0)
            d = Dropout(p, ratio, training)
            y = MatMul(d, w1)
        }""")
    random = np.random.default_rng(0)
    for name, shape in (("w0", (5, 6)), ("w1", (6, 1))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name))
    x, y = table(dtype=np.float32)
    options = dict(trainable=["w0", "w1"], warm_start=True, random_state=3, tol=None, batch_size=16)
    outside = torch.get_rng_state()
    whole = OnnxRegressor(model, max_iter=6, **options).fit(x, y)
    part = OnnxRegressor(model, max_iter=2, **options).fit(x, y)
    if pickled:
        part = pickle.loads(pickle.dumps(part))
    assert same(whole, part.set_params(max_iter=4).fit(x, y))
    assert torch.equal(outside, torch.get_rng_state())
    assert not same(whole, clone(whole).set_params(random_state=4).fit(x, y))
    assert np.array_equal(whole.predict(x), whole.predict(x))


@pytest.mark.gpu
def test_a_gpu_gives_the_weights_of_the_cpu():
    x, y = table()
    options = dict(hidden_layer_sizes=(6,), random_state=0, max_iter=5, learning_rate_init=0.05, batch_size=16)
    for cls, target in ((OnnxRegressor, y), (OnnxClassifier, classes(y))):
        here, there = cls(**options).fit(x, target), cls(device="cuda", **options).fit(x, target)
        for a, b in zip(here.coefs_, there.coefs_, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-9)
        assert np.array_equal(here.predict(x[:9]), there.predict(x[:9])) or np.allclose(here.predict(x), there.predict(x))
        assert same(pickle.loads(pickle.dumps(there)), there)


def test_an_interrupted_fit_keeps_what_it_reached():
    x, y = table()

    def stop(report):
        if report["epoch"] == 2:
            raise KeyboardInterrupt

    options = dict(hidden_layer_sizes=(4,), random_state=0)
    trained = OnnxRegressor(callback=stop, max_iter=50, **options)
    with pytest.raises(KeyboardInterrupt):
        trained.fit(x, y)
    assert same(trained, OnnxRegressor(max_iter=3, **options).fit(x, y))
    assert trained.t_ == 240 and np.isfinite(trained.predict(x)).all()


def test_a_fit_on_fewer_rows_than_a_batch():
    x, y = table(3)
    assert OnnxRegressor(batch_size=500, hidden_layer_sizes=(3,), max_iter=3).fit(x, y).t_ == 9


# scikit-learn's tools


def test_search_pipeline_and_parallel_jobs():
    x, y = table(150)
    pipeline = make_pipeline(StandardScaler(), OnnxClassifier(hidden_layer_sizes=(8,), learning_rate_init=0.05, random_state=0))
    search = GridSearchCV(pipeline, {"onnxclassifier__hidden_layer_sizes": [(), (12,)]}, cv=3, n_jobs=2)
    search.fit(x, y > 0)
    assert search.best_params_ == {"onnxclassifier__hidden_layer_sizes": (12,)} and search.best_score_ > 0.65
    assert np.array_equal(cross_val_score(pipeline, x, y > 0, n_jobs=1), cross_val_score(pipeline, x, y > 0, n_jobs=2))


@pytest.mark.parametrize("way", ["pickle", "joblib", "deepcopy"])
def test_copies_predict_the_same_and_go_on_the_same(way, tmp_path):
    x, y = table()
    trained = OnnxRegressor(mlp([5, 3, 1]), max_iter=4, random_state=0, solver="adam").fit(x, y)
    if way == "pickle":
        copied = pickle.loads(pickle.dumps(trained))
    elif way == "joblib":
        joblib.dump(trained, tmp_path / "e.joblib")
        copied = joblib.load(tmp_path / "e.joblib")
    else:
        copied = copy.deepcopy(trained)
    assert np.array_equal(copied.predict(x), trained.predict(x))
    before = trained.coefs_
    copied.partial_fit(x, y)
    assert all(np.array_equal(v, w) for v, w in zip(before, trained.coefs_, strict=True))
    assert same(copied, trained.partial_fit(x, y))
    assert not hasattr(clone(trained), "coefs_")


def test_the_loss_curve_is_drawn():
    import matplotlib

    matplotlib.use("Agg")
    x, y = table()
    trained = OnnxRegressor(early_stopping=True, max_iter=7, random_state=0).fit(x, y)
    lines = trained.plot_loss_curve().get_lines()
    assert [line.get_ydata().tolist() for line in lines] == [trained.loss_curve_, trained.validation_losses_]


def test_the_page_on_estimators_runs():
    import matplotlib

    matplotlib.use("Agg")
    page = (Path(__file__).resolve().parent.parent / "docs" / "estimators.md").read_text(encoding="utf-8")
    first, second = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    known = {}
    exec(first, known)
    assert known["search"].best_score_ > 0.9
    known["y"] = known["y"] + known["X"][:, 0]
    known["fitted_pipeline"] = make_pipeline(StandardScaler(), SGDRegressor()).fit(known["X"], known["y"])
    exec(second, known)
    assert known["tuned"].n_iter_ == 1


# What goes wrong


def wrong(kind):
    x, y = table()
    if kind == "nan":
        x[3, 1] = np.nan
    elif kind == "infinity":
        x[3, 1] = np.inf
    elif kind == "columns":
        x = x[:, :-1]
    elif kind == "objects":
        x = np.array([[{}] * 5] * len(x), dtype=object)
    elif kind == "words":
        x = np.full(x.shape, "a")
    elif kind == "complex":
        x = x + 1j
    elif kind == "rows":
        x = x[:-1]
    elif kind == "target nan":
        y[0] = np.nan
    elif kind == "outputs":
        y = np.c_[y, y]
    return x, y


@pytest.mark.parametrize(
    "kind, error, words",
    [
        ("nan", DataError, "contains NaN"),
        ("infinity", DataError, "contains infinity"),
        ("columns", DataError, "X has 4 features, but OnnxRegressor is expecting 5 features"),
        ("objects", DTypeError, "must be .* number"),
        ("words", DataError, "could not convert|Unable to convert"),
        ("complex", DataError, "Complex data not supported"),
        ("rows", DataError, "inconsistent numbers of samples"),
        ("target nan", DataError, "contains NaN"),
        ("outputs", ShapeError, "got 2 columns, expected 1"),
    ],
)
def test_wrong_rows_are_typed_errors_and_leave_the_estimator_as_it_was(kind, error, words):
    trained = OnnxRegressor(hidden_layer_sizes=(4,), max_iter=3, random_state=0, warm_start=True).fit(*table())
    before = pickle.dumps(trained)
    builtin = TypeError if error is DTypeError else ValueError
    for method in (trained.fit, trained.partial_fit):
        with pytest.raises(error, match=words) as caught:
            method(*wrong(kind))
        assert isinstance(caught.value, builtin) and isinstance(caught.value, OrtmodError)
    if kind not in ("rows", "target nan", "outputs"):
        with pytest.raises(error, match=words):
            trained.predict(wrong(kind)[0])
    after = pickle.loads(pickle.dumps(trained))
    assert same(trained, pickle.loads(before)) and trained.n_features_in_ == 5 and trained.loss_curve_ == after.loss_curve_
    assert same(trained.partial_fit(*table()), pickle.loads(before).partial_fit(*table()))


@pytest.mark.parametrize("how", ["fit", "warm fit", "partial_fit"])
def test_a_diverging_rate_is_an_error_and_the_state_unharmed(how):
    x, y = table()
    options = dict(hidden_layer_sizes=(), batch_size=8, learning_rate_init=0.01)
    trained = OnnxRegressor(max_iter=3, warm_start=how == "warm fit", **options).fit(x, y)
    before = pickle.loads(pickle.dumps(trained))
    trained.set_params(learning_rate_init=1e200)
    with pytest.raises(DivergenceError, match="loss is not finite.*lower the learning rate") as caught:
        trained.partial_fit(x, y) if how == "partial_fit" else trained.fit(x, y)
    assert isinstance(caught.value, ConvergenceError) and isinstance(caught.value, ValueError)
    assert same(before, trained) and trained.loss_curve_ == before.loss_curve_ and trained.t_ == before.t_
    trained.set_params(learning_rate_init=0.01)
    assert same(trained.partial_fit(x, y), before.partial_fit(x, y))
    with pytest.raises(DivergenceError):
        OnnxRegressor(hidden_layer_sizes=(), learning_rate_init=1e200).fit(x, y)


def test_a_failing_callback_leaves_the_estimator_as_it_was():
    x, y = table()
    trained = OnnxRegressor(hidden_layer_sizes=(4,), max_iter=3, warm_start=True, random_state=0).fit(x, y)
    before = pickle.loads(pickle.dumps(trained))

    def fail(report):
        raise RuntimeError("no disk")

    with pytest.raises(RuntimeError, match="no disk"):
        trained.set_params(callback=fail).fit(x, y)
    assert same(before, trained)


def test_labels_that_partial_fit_does_not_know():
    x, y = table()
    with pytest.raises(DataError, match="classes must be passed on the first call"):
        OnnxClassifier().partial_fit(x, y > 0)
    trained = OnnxClassifier(hidden_layer_sizes=(4,)).partial_fit(x, y > 0, classes=[False, True])
    before = pickle.loads(pickle.dumps(trained))
    with pytest.raises(DataError, match=r"labels \[2\] that are none of the known classes"):
        trained.partial_fit(x, np.where(y > 0, 2, 0))
    with pytest.raises(DataError, match="not the same as in the last call"):
        trained.partial_fit(x, y > 0, classes=[0, 1, 2])
    with pytest.raises(DataError, match="columns of labels"):
        trained.partial_fit(x, np.c_[y > 0, y < 0].astype(int))
    assert same(before, trained)
    with pytest.raises(DataError, match="one class"):
        OnnxClassifier().fit(x, np.ones(len(x)))
    with pytest.raises(DataError, match="columns of several classes"):
        OnnxClassifier().fit(x, np.c_[np.arange(len(x)) % 3, np.arange(len(x)) % 4])
    with pytest.raises(DataError, match="[Uu]nknown label type"):
        OnnxClassifier().fit(x, y)


@pytest.mark.parametrize(
    "weight, words", [(np.zeros(80), "zero"), (-np.ones(80), "[Nn]egative"), (np.ones(79), "shape"), (np.full(80, np.nan), "NaN")]
)
def test_wrong_weights_of_rows(weight, words):
    with pytest.raises(DataError, match=words):
        OnnxRegressor(max_iter=2).fit(*table(), weight)


@pytest.mark.parametrize(
    "params, words",
    [
        (dict(activation="swish"), "activation: got 'swish', expected one of 'relu'"),
        (dict(solver="lbfgs"), "solver: got 'lbfgs'"),
        (dict(loss="poisson"), "loss: got 'poisson'"),
        (dict(learning_rate="fast"), "learning_rate: got 'fast'"),
        (dict(learning_rate="optimal"), "alpha"),
        (dict(learning_rate_init=0), "learning_rate_init: got 0"),
        (dict(learning_rate_init="a"), "learning_rate_init: got 'a'"),
        (dict(momentum=1.5), "momentum: got 1.5"),
        (dict(alpha=-1), "alpha: got -1"),
        (dict(penalty="l3"), "penalty: got 'l3'"),
        (dict(batch_size=0), "batch_size"),
        (dict(max_iter=0), "max_iter"),
        (dict(max_iter=2.5), "max_iter: got 2.5, expected a whole number"),
        (dict(tol=-1), "tol"),
        (dict(hidden_layer_sizes=(3, 0)), "hidden_layer_sizes"),
        (dict(hidden_layer_sizes=(3, "a")), "hidden_layer_sizes"),
        (dict(validation_fraction=2), "validation_fraction"),
    ],
)
def test_wrong_arguments_are_named_and_change_nothing(params, words):
    x, y = table()
    trained = OnnxRegressor(hidden_layer_sizes=(4,), max_iter=2, random_state=0).fit(x, y)
    before = trained.coefs_
    with pytest.raises(ParameterError, match=words) as caught:
        trained.set_params(**params).fit(x, y)
    assert isinstance(caught.value, ValueError)
    assert all(np.array_equal(v, w) for v, w in zip(before, trained.coefs_, strict=True))


def test_wrong_graphs():
    x, y = table(dtype=np.float32)
    text = '<ir_version: 8, opset_import: ["" : 15]>'
    nothing = onnx.parser.parse_model(text + "g (float[N, 5] X) => (float[N, 5] y) { y = Relu(X) }")
    with pytest.raises(ModelError, match="nothing to train"):
        OnnxRegressor(nothing).fit(x, y)
    two = onnx.parser.parse_model(text + "g (float[N, 5] X, float[N, 5] Z) => (float[N, 5] y) { y = Add(X, Z) }")
    with pytest.raises(ModelError, match="got the inputs X, Z, expected one"):
        OnnxRegressor(two).fit(x, y)
    numbers = onnx.parser.parse_model(text + "g (float[N, 5] X) => (int64[N] y) { y = ArgMax<axis=1, keepdims=0>(X) }")
    with pytest.raises(ModelError, match="no output of floats"):
        OnnxRegressor(numbers).fit(x, y)
    with pytest.raises(ModelError, match="output: got 'z', expected one of"):
        OnnxRegressor(linear(5), output="z").fit(x, y)
    with pytest.raises(ModelError, match="trainable: got 'nope'"):
        OnnxRegressor(linear(5), trainable="nope").fit(x, y)
    with pytest.raises(ModelError, match="got int, expected a path"):
        OnnxRegressor(3).fit(x, y)
    with pytest.raises(ShapeError, match="got 5 columns, but the graph's input 'X'"):
        OnnxRegressor(linear(4)).fit(x, y)
    with pytest.raises(ShapeError, match="got 1 columns, but the graph's output has 3"):
        OnnxRegressor(linear(5, 3)).fit(x, y)
    with pytest.raises(ShapeError, match="got 3 classes, but the graph's output has 2 columns"):
        OnnxClassifier(linear(5, 2)).fit(x, classes(y))


def test_without_scikit_learn_the_import_says_so():
    code = "import sys; sys.modules['sklearn'] = None; import ortmod.sklearn"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 1 and "ImportError: ortmod.sklearn needs scikit-learn" in found.stderr


def test_a_custom_loss_with_the_wrong_signature():
    class Wrong(BaseLearningLoss):
        def build_onnx_function(self, opset=None, dtype=np.float32):
            return (
                '<ir_version: 8, opset_import: ["" : 15]> w (double[n, k] expected) => (double[n, k] loss) { loss = Abs(expected) }'
            )

    with pytest.raises(OrtmodError, match="expected, predicted|inputs"):
        OnnxRegressor(loss=Wrong()).fit(*table())


def test_what_does_not_fit_together():
    x, y = table()
    with pytest.raises(ParameterError, match="partial_fit does not support early_stopping"):
        OnnxRegressor(early_stopping=True).partial_fit(x, y)
    with pytest.raises(DataError, match="validation set is too small|test_size|validation_fraction"):
        OnnxRegressor(early_stopping=True).fit(x[:5], y[:5])
    with pytest.raises(NotFittedError):
        OnnxRegressor().predict(x)
    with pytest.raises(AttributeError):
        _ = OnnxClassifier().coefs_
    with pytest.raises(AttributeError):
        _ = OnnxClassifier(loss="hinge").predict_proba
    assert hasattr(OnnxClassifier(loss=NegLogLearningLoss()), "predict_proba")
