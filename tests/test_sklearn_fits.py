"""Estimators: how fits go on, and scikit-learn's tools."""

import copy
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
import onnx
import pytest
import torch
from estimators import classes, quiet, same, table  # noqa: F401
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.feature_selection import SelectFromModel
from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier, SGDRegressor
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_class_weight
from train_models import mlp

from ortmod.sklearn import OnnxClassifier, OnnxRegressor


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


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("class_weight", ["balanced", {False: 1, True: 7}, {True: 3.0}])
def test_classes_weigh_as_in_logistic_regression(class_weight, weighted):
    x, y = table(200)
    target, weight = y > 0.8, np.random.default_rng(1).uniform(0.1, 2, len(x)) if weighted else None
    theirs = LogisticRegression(C=np.inf, class_weight=class_weight, tol=1e-10).fit(x, target, weight)
    ours = OnnxClassifier(
        hidden_layer_sizes=(), class_weight=class_weight, learning_rate_init=1, max_iter=800, batch_size=200, tol=None
    ).fit(x, target, weight)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-5)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-5)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_weights_of_classes_are_weights_of_rows(early_stopping):
    x, y = table()
    target = classes(y)
    weights = {"low": 0.5, "middle": 2.0, "high": 0.0}
    options = dict(hidden_layer_sizes=(4,), batch_size=16, max_iter=3, random_state=0, early_stopping=early_stopping)
    rows = np.array([weights[label] for label in target])
    a = OnnxClassifier(class_weight=weights, **options).fit(x, target)
    assert a.classes_.tolist() == ["high", "low", "middle"]
    balanced = compute_class_weight("balanced", classes=a.classes_, y=target)[np.searchsorted(a.classes_, target)]
    b = OnnxClassifier(class_weight="balanced", **options).fit(x, target)
    assert same(b, OnnxClassifier(**options).fit(x, target, balanced))
    if not early_stopping:
        c = OnnxClassifier(class_weight=weights, **options).partial_fit(x, target, classes=a.classes_)
        d = OnnxClassifier(**options).partial_fit(x[rows > 0], target[rows > 0], a.classes_, rows[rows > 0])
        assert same(c, d)
    fold = target != "high"  # a fold without one of the classes that have a weight
    assert OnnxClassifier(class_weight={**weights, "high": 1.0}, **options).fit(x[fold], target[fold]).classes_.tolist() == [
        "low",
        "middle",
    ]


def test_a_linear_model_has_coefficients_where_one_looks_for_them():
    x, y = table()
    for target, ours, theirs in (
        (y, OnnxRegressor, SGDRegressor),
        (y > 0, OnnxClassifier, SGDClassifier),
        (classes(y), OnnxClassifier, SGDClassifier),
        (np.c_[y, y], OnnxRegressor, LinearRegression),
    ):
        a, b = ours(hidden_layer_sizes=(), max_iter=3).fit(x, target), theirs().fit(x, target)
        assert a.coef_.shape == b.coef_.shape and a.intercept_.shape == b.intercept_.shape
        scores = a.predict(x) if ours is OnnxRegressor else a.decision_function(x)
        np.testing.assert_allclose(np.squeeze(x @ a.coef_.T + a.intercept_), scores, atol=1e-12)
    assert SelectFromModel(OnnxRegressor(hidden_layer_sizes=(), learning_rate_init=0.1)).fit(x, y).get_support().any()
    for other in (OnnxRegressor(), OnnxRegressor().fit(x, y)):
        assert not hasattr(other, "coef_") and not hasattr(other, "intercept_")


def test_frozen_weights_of_a_network_stay():
    x, y = table()
    free, held = (OnnxRegressor(hidden_layer_sizes=(4,), max_iter=3, random_state=0, frozen=f).fit(x, y) for f in (None, "*0"))
    assert list(held.weights_) == ["coef1", "intercept1"] and list(free.weights_)[0] == "coef0"
    start = OnnxRegressor(hidden_layer_sizes=(4,), max_iter=1, random_state=0, learning_rate_init=1e-300).fit(x, y)
    kept = {i.name: onnx.numpy_helper.to_array(i) for i in held.onnx_.graph.initializer}
    assert np.array_equal(kept["coef0"], start.coefs_[0]) and not np.array_equal(kept["coef1"], start.coefs_[1])


def test_numbers_of_numpy_are_arguments_of_a_search():
    x, y = table()
    grid = {
        "batch_size": np.array([10, 20]),
        "max_iter": np.arange(2, 4),
        "tol": np.array([1e-3], np.float32),
        "learning_rate_init": np.logspace(-3, -2, 2, dtype=np.float32),
        "shuffle": np.array([True, False]),
    }
    search = GridSearchCV(OnnxRegressor(hidden_layer_sizes=(), random_state=0), grid, cv=2, error_score="raise").fit(x, y)
    assert search.best_estimator_.n_iter_ in (2, 3)


def test_logarithms_of_probabilities_stay_finite():
    x, y = table()
    for target, loss in ((y > 0, "log_loss"), (classes(y), "log_loss"), (classes(y), "binary_log_loss")):
        ours = OnnxClassifier(hidden_layer_sizes=(), loss=loss, random_state=0).fit(x, target)
        np.testing.assert_allclose(ours.predict_log_proba(x), np.log(ours.predict_proba(x)), atol=1e-12)
        assert np.isfinite(ours.predict_log_proba(1e5 * x)).all() and (ours.predict_proba(1e5 * x) == 0).any()


def test_columns_of_labels_may_be_sparse():
    x, y = table()
    labels = np.c_[y > 0, x[:, 0] > 0].astype(int)
    options = dict(hidden_layer_sizes=(4,), max_iter=3, random_state=0)
    assert same(OnnxClassifier(**options).fit(x, csr_array(labels)), OnnxClassifier(**options).fit(x, labels))
