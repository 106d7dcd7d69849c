"""Estimators: scikit-learn's own checks, and its solvers' weights."""

import numpy as np
import pytest
from estimators import classes, quiet, same, table  # noqa: F401
from sklearn.base import clone
from sklearn.linear_model import SGDClassifier, SGDRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils.estimator_checks import estimator_checks_generator

from ortmod.sklearn import OnnxClassifier, OnnxRegressor
from ortmod.training import (
    LearningRateSGD,
)

STEPS, BATCH = 50, 8
EPOCHS = STEPS // 10


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
