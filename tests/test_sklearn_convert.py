"""Fitted estimators of scikit-learn as graphs that go on training."""

import pickle

import numpy as np
import onnxruntime
import pytest
from estimators import quiet  # noqa: F401
from sklearn import ensemble, linear_model, neural_network, svm, tree
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor, make_column_selector
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.feature_selection import SelectKBest
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, Normalizer, PolynomialFeatures, RobustScaler, StandardScaler

from ortmod import DTypeError, OrtmodError
from ortmod.sklearn import EstimatorError, OnnxClassifier, OnnxRegressor, ParameterError


def table(rows: int = 120):
    random = np.random.default_rng(0)
    x = 3 * random.normal(size=(rows, 5)) + 1
    return x, x @ [1.0, -2.0, 0.5, 0.0, 1.0] + np.sin(x[:, 0]) + 0.1 * random.normal(size=rows)


def kinds(y):
    return np.array(["low", "middle", "high"])[np.digitize(y, [-1.0, 1.5])]


REGRESSORS = [
    linear_model.LinearRegression(),
    linear_model.Ridge(),
    linear_model.RidgeCV(),
    linear_model.Lasso(alpha=0.01),
    linear_model.ElasticNet(alpha=0.01),
    linear_model.BayesianRidge(),
    linear_model.HuberRegressor(max_iter=1000),
    linear_model.SGDRegressor(eta0=1e-3),
    svm.LinearSVR(max_iter=20000),
    neural_network.MLPRegressor(hidden_layer_sizes=(8, 4), solver="adam", max_iter=50, random_state=0),
    neural_network.MLPRegressor(hidden_layer_sizes=(8,), solver="lbfgs", activation="tanh", max_iter=50, random_state=0),
    make_pipeline(StandardScaler(), linear_model.Ridge()),
    make_pipeline(MinMaxScaler(), neural_network.MLPRegressor(hidden_layer_sizes=(6,), max_iter=50, random_state=0)),
    make_pipeline(RobustScaler(), MaxAbsScaler(), linear_model.SGDRegressor()),
    make_pipeline("passthrough", linear_model.Ridge()),
    make_pipeline(PCA(3), linear_model.LinearRegression()),
    make_pipeline(SelectKBest(k=3), linear_model.Ridge()),
    make_pipeline(
        ColumnTransformer([("a", StandardScaler(), [0, 1]), ("b", MinMaxScaler(), [2, 4])]), linear_model.LinearRegression()
    ),
]
CLASSIFIERS = [
    linear_model.LogisticRegression(max_iter=1000),
    linear_model.LogisticRegressionCV(max_iter=1000, cv=3, use_legacy_attributes=False),
    linear_model.SGDClassifier(random_state=0),
    linear_model.SGDClassifier(loss="log_loss", random_state=0),
    svm.LinearSVC(max_iter=20000),
    neural_network.MLPClassifier((8,), max_iter=50, random_state=0),
    make_pipeline(StandardScaler(), linear_model.LogisticRegression()),
    make_pipeline(StandardScaler(), neural_network.MLPClassifier((6,), max_iter=50, random_state=0)),
]


def name(value):
    return "-".join(type(s).__name__ for _, s in value.steps) if hasattr(value, "steps") else type(value).__name__


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("estimator", REGRESSORS, ids=name)
def test_a_regressor_predicts_the_same_and_goes_on(estimator, dtype):
    x, y = table()
    fitted = clone(estimator).fit(x, y)
    ours = OnnxRegressor.from_estimator(fitted, dtype=dtype, batch_size=20, learning_rate_init=1e-6, max_iter=5, tol=None)
    tolerance = 1e-9 if dtype == np.float64 else 2e-4
    np.testing.assert_allclose(ours.predict(x.astype(dtype)), fitted.predict(x), rtol=tolerance, atol=tolerance)
    assert ours.n_iter_ == 0 and ours.n_features_in_ == 5 and ours.loss_curve_ == []
    (out,) = onnxruntime.InferenceSession(ours.onnx_.SerializeToString()).run(["y"], {"X": x.astype(dtype)})
    np.testing.assert_allclose(out.ravel(), fitted.predict(x), rtol=1e-3, atol=1e-3)
    start = ours.coefs_
    ours.partial_fit(x, y)
    moved = max(np.abs(a - b).max() for a, b in zip(ours.coefs_, start, strict=True))
    assert 0 < moved < 0.2 and ours.n_iter_ == 1
    again = clone(ours).fit(x, y)
    assert len(again.loss_curve_) == 5 and all(a.shape == b.shape for a, b in zip(again.coefs_, start, strict=True))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("estimator", CLASSIFIERS, ids=name)
def test_a_classifier_predicts_the_same_and_goes_on(estimator, classes):
    x, y = table()
    target = kinds(y) if classes == 3 else np.where(y > 0, "up", "down")
    fitted = clone(estimator).fit(x, target)
    ours = OnnxClassifier.from_estimator(fitted, batch_size=20, learning_rate="constant", learning_rate_init=1e-6)
    assert np.array_equal(ours.predict(x), fitted.predict(x)) and ours.classes_.tolist() == fitted.classes_.tolist()
    assert hasattr(ours, "predict_proba") == hasattr(fitted, "predict_proba")
    if hasattr(fitted, "predict_proba"):
        np.testing.assert_allclose(ours.predict_proba(x), fitted.predict_proba(x), atol=1e-9)
    if hasattr(fitted, "decision_function"):
        np.testing.assert_allclose(ours.decision_function(x), fitted.decision_function(x), atol=1e-9)
    (label,) = onnxruntime.InferenceSession(ours.onnx_.SerializeToString()).run(["label"], {"X": x})
    assert np.array_equal(label, fitted.predict(x))
    start = ours.coefs_
    ours.partial_fit(x, target)
    assert 0 < max(np.abs(a - b).max() for a, b in zip(ours.coefs_, start, strict=True)) < 0.05
    with pytest.raises(OrtmodError, match="none of the known classes"):
        ours.partial_fit(x, np.full(len(x), "elsewhere"))


def test_several_outputs_and_several_labels():
    x, y = table()
    fitted = linear_model.LinearRegression().fit(x, np.c_[y, x[:, 0]])
    np.testing.assert_allclose(OnnxRegressor.from_estimator(fitted).predict(x), fitted.predict(x), atol=1e-9)
    column = linear_model.LinearRegression().fit(x, y[:, None])
    assert OnnxRegressor.from_estimator(column).predict(x).shape == column.predict(x).shape
    labels = np.c_[y > 0, x[:, 0] > 0].astype(int)
    several = neural_network.MLPClassifier((6,), max_iter=50, random_state=0).fit(x, labels)
    ours = OnnxClassifier.from_estimator(several)
    assert np.array_equal(ours.predict(x), several.predict(x))
    np.testing.assert_allclose(ours.predict_proba(x), several.predict_proba(x), atol=1e-9)
    ours.partial_fit(x, labels)


@pytest.mark.parametrize("kind", ["regressor", "classifier"])
def test_a_network_goes_on_as_scikit_learn_would(kind):
    x, y = table(64)
    options = dict(hidden_layer_sizes=(6,), activation="tanh", solver="sgd", shuffle=False, batch_size=8, alpha=0.1)
    options |= dict(learning_rate_init=1e-3, nesterovs_momentum=False, momentum=0.0, max_iter=3, random_state=0)
    theirs, ours = (
        (neural_network.MLPRegressor(**options).fit(x, y), OnnxRegressor)
        if kind == "regressor"
        else (neural_network.MLPClassifier(**options).fit(x, kinds(y)), OnnxClassifier)
    )
    target = y if kind == "regressor" else kinds(y)
    moving = ours.from_estimator(theirs)
    assert (moving.alpha, moving.batch_size, moving.learning_rate_init, moving.solver) == (0.1, 8, 1e-3, "sgd")
    for _ in range(6):
        moving.partial_fit(x, target)
        theirs.partial_fit(x, target)
    for a, b in zip(moving.coefs_ + moving.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("loss", ["hinge", "log_loss"])
def test_a_linear_classifier_goes_on_as_scikit_learn_would(loss):
    x, y = table(50)
    theirs = linear_model.SGDClassifier(
        loss=loss, alpha=0.01, eta0=1e-3, learning_rate="constant", shuffle=False, max_iter=3, tol=None
    ).fit(x, kinds(y))
    moving = OnnxClassifier.from_estimator(theirs)
    for _ in range(3):
        moving.partial_fit(x, kinds(y))
        theirs.partial_fit(x, kinds(y))
    np.testing.assert_allclose(moving.coefs_[0].T, theirs.coef_, atol=1e-5)
    np.testing.assert_allclose(moving.intercepts_[0], theirs.intercept_, atol=1e-5)


def test_the_steps_before_the_last_one_stay_frozen_unless_named():
    x, y = table()
    fitted = make_pipeline(StandardScaler(), linear_model.Ridge()).fit(x, y)
    ours = OnnxRegressor.from_estimator(fitted, max_iter=10).fit(x, y)
    assert list(ours.weights_) == ["coef", "intercept"]
    weights = {i.name for i in ours.model.graph.initializer} - {"coef", "intercept"}
    assert weights
    every = OnnxRegressor.from_estimator(fitted, trainable=[*sorted(weights), "coef", "intercept"], max_iter=3, random_state=0)
    every.fit(x, y)
    assert set(every.weights_) == weights | {"coef", "intercept"}
    np.testing.assert_allclose(every.predict(x), fitted.predict(x), atol=1.0)


def test_fine_tuning_a_pipeline_on_new_digits():
    x, y = load_digits(return_X_y=True)
    x_old, x_new, y_old, y_new = train_test_split(x, y, test_size=0.5, random_state=0, stratify=y)
    fitted = make_pipeline(StandardScaler(), neural_network.MLPClassifier((30,), max_iter=15, random_state=0)).fit(
        x_old[:200], y_old[:200]
    )
    tuned = OnnxClassifier.from_estimator(fitted, max_iter=30, random_state=0, batch_size=50)
    assert tuned.score(x_new, y_new) == fitted.score(x_new, y_new) < 0.9
    tuned.fit(x_old, y_old)
    assert tuned.score(x_new, y_new) > 0.93
    kept = pickle.loads(pickle.dumps(tuned))
    assert np.array_equal(kept.predict_proba(x_new), tuned.predict_proba(x_new))
    (label,) = onnxruntime.InferenceSession(tuned.onnx_.SerializeToString()).run(["label"], {"X": x_new})
    assert np.array_equal(label, tuned.predict(x_new))


@pytest.mark.parametrize(
    "estimator, words",
    [
        (tree.DecisionTreeRegressor(), "DecisionTreeRegressor: the splits of trees have no gradient"),
        (ensemble.RandomForestRegressor(3), "RandomForestRegressor: the splits of trees have no gradient"),
        (ensemble.HistGradientBoostingRegressor(max_iter=3), "the splits of trees have no gradient"),
        (ensemble.VotingRegressor([("a", linear_model.Ridge())]), "it combines several estimators; give one of them"),
        (svm.SVR(), "SVR: its support vectors are rows of the training data"),
        (linear_model.PoissonRegressor(), "PoissonRegressor: its predict is not that of its coefficients"),
        (neural_network.MLPRegressor(loss="poisson", max_iter=3), "its output is not the last layer's"),
        (linear_model.SGDRegressor(loss="squared_epsilon_insensitive", eta0=1e-4), "no such loss here"),
        (make_pipeline(StandardScaler(), tree.DecisionTreeRegressor()), "the splits of trees have no gradient"),
        (make_pipeline(ensemble.RandomTreesEmbedding(2), linear_model.Ridge()), "skl2onnx does not convert"),
        (linear_model.LogisticRegression(), "LogisticRegression is no regressor; give it to OnnxClassifier.from_estimator"),
    ],
    ids=lambda v: name(v) if hasattr(v, "fit") else "",
)
def test_what_cannot_go_on_is_refused_in_words(estimator, words):
    x, y = table()
    target = y if "Logistic" not in name(estimator) else y > 0
    fitted = clone(estimator).fit(x, target if "Poisson" not in name(estimator) else np.abs(y))
    if isinstance(estimator, neural_network.MLPRegressor):
        fitted.loss = "poisson"
    with pytest.raises(EstimatorError, match=words) as caught:
        OnnxRegressor.from_estimator(fitted)
    assert isinstance(caught.value, NotImplementedError) and isinstance(caught.value, OrtmodError)


@pytest.mark.parametrize(
    "estimator, words",
    [
        (tree.DecisionTreeClassifier(), "the splits of trees have no gradient"),
        (svm.SVC(), "its support vectors are rows of the training data"),
        (linear_model.RidgeClassifier(), "say by which it goes on: loss="),
        (linear_model.SGDClassifier(loss="perceptron"), "no such loss here"),
        (linear_model.LinearRegression(), "LinearRegression is no classifier; give it to OnnxRegressor.from_estimator"),
    ],
    ids=lambda v: name(v) if hasattr(v, "fit") else "",
)
def test_what_cannot_go_on_as_a_classifier(estimator, words):
    x, y = table()
    with pytest.raises(EstimatorError, match=words):
        OnnxClassifier.from_estimator(clone(estimator).fit(x, y > 0))


def test_a_graph_that_skl2onnx_writes_for_float32_only():
    x, y = table()
    fitted = make_pipeline(PolynomialFeatures(2), StandardScaler(), linear_model.Ridge()).fit(x, y)
    with pytest.raises(EstimatorError, match="dtype=numpy.float32"):
        OnnxRegressor.from_estimator(fitted, dtype=np.float64)
    with pytest.warns(UserWarning, match="goes on in float32; in float64: .*what skl2onnx wrote cannot be used"):
        free = OnnxRegressor.from_estimator(fitted)
    for ours in (free, OnnxRegressor.from_estimator(fitted, dtype=np.float32)):
        np.testing.assert_allclose(ours.predict(x), fitted.predict(x), rtol=1e-4, atol=1e-4)


def test_the_loss_that_an_estimator_was_fitted_by_goes_on():
    x, y = table()
    median = linear_model.QuantileRegressor(alpha=0).fit(x, y)
    assert OnnxRegressor.from_estimator(median).loss == "absolute_error"
    upper = linear_model.QuantileRegressor(quantile=0.9, alpha=0).fit(x, y)
    with pytest.raises(EstimatorError, match="quantile=0.9.*say by which it goes on with loss="):
        OnnxRegressor.from_estimator(upper)
    assert OnnxRegressor.from_estimator(upper, loss="huber").loss == "huber"
    aggressive = linear_model.PassiveAggressiveRegressor(random_state=0).fit(x, y)
    with pytest.raises(EstimatorError, match="by updates of its own.*loss='epsilon_insensitive'"):
        OnnxRegressor.from_estimator(aggressive)
    ours = OnnxRegressor.from_estimator(aggressive, loss="epsilon_insensitive")
    np.testing.assert_allclose(ours.predict(x), aggressive.predict(x), atol=1e-9)


def test_a_network_within_pipelines_within_a_pipeline_goes_on():
    x, y = table()
    for inner in (make_pipeline(MinMaxScaler(), "passthrough", linear_model.Ridge()), make_pipeline(linear_model.Ridge())):
        fitted = make_pipeline(make_pipeline(StandardScaler(), make_pipeline(PCA(3))), inner).fit(x, y)
        ours = OnnxRegressor.from_estimator(fitted, learning_rate_init=1e-4)
        np.testing.assert_allclose(ours.predict(x), fitted.predict(x), atol=1e-9)
        assert len(ours.coefs_) == 1 and ours.coefs_[0].shape == (3, 1)
        ours.partial_fit(x, y)


def test_a_loss_that_is_given_decides():
    x, y = table()
    ridge = linear_model.RidgeClassifier().fit(x, y > 0)
    ours = OnnxClassifier.from_estimator(ridge, loss="log_loss", learning_rate_init=0.01, max_iter=50)
    np.testing.assert_allclose(ours.decision_function(x), ridge.decision_function(x), atol=1e-9)
    assert ours.fit(x, y > 0).loss_curve_[-1] < ours.loss_curve_[0]


def test_an_estimator_that_is_not_fitted():
    with pytest.raises(NotFittedError):
        OnnxRegressor.from_estimator(linear_model.Ridge())


@pytest.mark.parametrize(
    "estimator",
    [
        linear_model.SGDRegressor(),
        linear_model.SGDRegressor(learning_rate="optimal", alpha=1.0, fit_intercept=False),
        linear_model.SGDClassifier(loss="log_loss"),
        linear_model.SGDClassifier(loss="squared_hinge", learning_rate="invscaling", eta0=0.1, power_t=0.5),
        neural_network.MLPRegressor(hidden_layer_sizes=(4,), solver="sgd", momentum=0, learning_rate="invscaling"),
        neural_network.MLPClassifier((4,), solver="sgd", momentum=0, learning_rate="invscaling", power_t=0.2),
    ],
    ids=name,
)
def test_a_rate_that_falls_goes_on_where_it_was(estimator):
    x, y = table()
    x = StandardScaler().fit_transform(x)
    ours = OnnxRegressor if isinstance(estimator, neural_network.MLPRegressor | linear_model.SGDRegressor) else OnnxClassifier
    target = y if ours is OnnxRegressor else kinds(y)
    theirs = clone(estimator).set_params(shuffle=False, max_iter=20, random_state=0).fit(x, target)
    moving = ours.from_estimator(theirs)
    steps = [*theirs.coefs_] if hasattr(theirs, "coefs_") else [theirs.coef_.copy()]
    for _ in range(3):
        moving.partial_fit(x, target)
        theirs.partial_fit(x, target)
    if hasattr(theirs, "coefs_"):
        for a, b in zip(moving.coefs_ + moving.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-9)
        assert moving.t_ == theirs.t_
    else:
        assert not np.allclose(theirs.coef_, steps[0], atol=1e-7)
        np.testing.assert_allclose(moving.coef_, theirs.coef_, atol=1e-6)
        np.testing.assert_allclose(moving.intercept_, theirs.intercept_, atol=1e-6)


def test_an_intercept_that_was_not_fitted_stays_zero():
    x, y = table()
    for kind, target in ((linear_model.Ridge, y), (linear_model.LogisticRegression, y > 0)):
        fitted = kind(fit_intercept=False).fit(x, target)
        ours = (OnnxRegressor if target is y else OnnxClassifier).from_estimator(fitted)
        ours.partial_fit(x, target)
        assert list(ours.weights_) == ["coef"] and not ours.intercept_.any() and ours.intercepts_ == []


@pytest.mark.parametrize(
    "estimator, expected",
    [
        (linear_model.Lasso(alpha=0.3), ("l1", 0.3)),
        (linear_model.ElasticNet(alpha=0.3, l1_ratio=0.7), ("elasticnet", 0.3)),
        (linear_model.LassoCV(cv=3), ("l1", None)),
        (linear_model.ElasticNetCV(cv=3, l1_ratio=[0.2, 0.7]), ("elasticnet", None)),
        (linear_model.LassoLars(alpha=0.3), ("l1", 0.3)),
        (linear_model.LassoLarsIC(), ("l1", None)),
        (linear_model.TweedieRegressor(power=0, alpha=0.3), ("l2", 0.3)),
        (linear_model.QuantileRegressor(alpha=0.1), ("l1", 0.2)),
        (linear_model.MultiTaskLasso(), (None, 0.0)),
        (linear_model.LinearRegression(), (None, 0.0)),
    ],
    ids=lambda v: name(v) if hasattr(v, "fit") else "",
)
def test_the_penalty_that_an_estimator_was_fitted_by_goes_on(estimator, expected):
    x, y = table()
    several = isinstance(estimator, linear_model.MultiTaskLasso)
    fitted = estimator.fit(x, np.c_[y, y] if several else y)
    ours = OnnxRegressor.from_estimator(fitted)
    penalty, alpha = expected
    assert ours.penalty == penalty and ours.alpha == (fitted.alpha_ if alpha is None else alpha)
    if penalty == "elasticnet":
        assert ours.l1_ratio == getattr(fitted, "l1_ratio_", fitted.l1_ratio)
    if penalty is None or isinstance(estimator, linear_model.QuantileRegressor | linear_model.LassoLarsIC):
        return
    # What was fitted is the minimum of this loss, too: it stays.
    small = dict(learning_rate_init=1e-4, batch_size=len(x), momentum=0.0)
    kept = OnnxRegressor.from_estimator(fitted, **small).partial_fit(x, y)
    away = OnnxRegressor.from_estimator(fitted, alpha=0.0, **small).partial_fit(x, y)
    assert np.abs(kept.coef_ - fitted.coef_).max() < 0.3 * np.abs(away.coef_ - fitted.coef_).max()


def test_weights_of_classes_go_on():
    x, y = table()
    target = kinds(y)
    fitted = linear_model.LogisticRegression(C=np.inf, class_weight="balanced", tol=1e-9).fit(x, target)
    options = dict(learning_rate_init=1e-3, batch_size=len(x), max_iter=20, tol=None)
    kept, away = (OnnxClassifier.from_estimator(fitted, **options, **k).fit(x, target) for k in ({}, {"class_weight": None}))
    assert kept.class_weight == "balanced"
    assert np.abs(kept.coef_ - fitted.coef_).max() < 0.01 * np.abs(away.coef_ - fitted.coef_).max()
    weights = {"low": 1.0, "middle": 2.0, "high": 3.0}
    sgd = linear_model.SGDClassifier(class_weight=weights, random_state=0).fit(x, target)
    with pytest.raises(ParameterError, match="no effect at batch_size=1"):
        OnnxClassifier.from_estimator(sgd)
    assert OnnxClassifier.from_estimator(sgd, batch_size=20).partial_fit(x, target).class_weight == weights


@pytest.mark.parametrize("dtype", [None, np.float32])
@pytest.mark.parametrize(
    "before",
    [
        ColumnTransformer([("s", StandardScaler(), ["a b", "c"])], remainder="passthrough"),
        ColumnTransformer([("s", StandardScaler(), ["coef", "a b"]), ("m", MinMaxScaler(), ["X"])]),
        ColumnTransformer([("s", StandardScaler(), make_column_selector(pattern="a|c"))], remainder=RobustScaler()),
        ColumnTransformer([("s", StandardScaler(), [0, 3])], remainder="passthrough"),
        make_pipeline(ColumnTransformer([("s", StandardScaler(), ["y"])], remainder="passthrough"), MinMaxScaler()),
    ],
    ids=["remainder", "two", "selector", "numbers", "nested"],
)
def test_steps_that_choose_columns_by_name(before, dtype):
    pandas = pytest.importorskip("pandas")
    x, y = table()
    frame = pandas.DataFrame(x, columns=["a b", "y", "c", "X", "coef"])
    fitted = make_pipeline(before, linear_model.Ridge()).fit(frame, y)
    ours = OnnxRegressor.from_estimator(fitted, dtype=dtype, learning_rate_init=1e-4)
    assert ours.feature_names_in_.tolist() == list(frame.columns)
    np.testing.assert_allclose(ours.predict(frame), fitted.predict(frame), atol=1e-9 if dtype is None else 1e-4)
    given = x if dtype is None else x.astype(dtype)
    (out,) = onnxruntime.InferenceSession(ours.onnx_.SerializeToString()).run(["y"], {"X": given})
    np.testing.assert_allclose(out.ravel(), fitted.predict(frame), atol=1e-3)
    ours.partial_fit(frame, y)
    again = pickle.loads(pickle.dumps(ours))
    assert np.array_equal(again.partial_fit(frame, y).predict(frame), ours.partial_fit(frame, y).predict(frame))


@pytest.mark.parametrize(
    "estimator, words",
    [
        (GridSearchCV(linear_model.Ridge(), {"alpha": [1, 2]}), "give its best_estimator_"),
        (TransformedTargetRegressor(linear_model.Ridge(), transformer=StandardScaler()), "give its regressor_"),
        (MultiOutputRegressor(linear_model.Ridge()), "give one of its estimators_"),
        (OnnxRegressor(hidden_layer_sizes=(), max_iter=2), "it trains as it is: with partial_fit"),
        (CalibratedClassifierCV(linear_model.LogisticRegression()), "give the classifier itself"),
    ],
    ids=lambda v: name(v) if hasattr(v, "fit") else "",
)
def test_estimators_around_others_say_what_to_give(estimator, words):
    x, y = table()
    target = np.c_[y, y] if isinstance(estimator, MultiOutputRegressor) else y
    ours = OnnxClassifier if isinstance(estimator, CalibratedClassifierCV) else OnnxRegressor
    fitted = estimator.fit(x, target if ours is OnnxRegressor else y > 0)
    with pytest.raises(EstimatorError, match=words):
        ours.from_estimator(fitted)


def test_what_is_no_fitted_estimator_of_rows_of_numbers():
    x, y = table()
    for wrong in (None, "a", linear_model.Ridge):
        with pytest.raises(ParameterError, match="estimator: got .*, expected a fitted estimator"):
            OnnxRegressor.from_estimator(wrong)
    with pytest.raises(DTypeError, match="dtype: got 'x', expected float32 or float64"):
        OnnxRegressor.from_estimator(linear_model.Ridge().fit(x, y), dtype="x")
    words = make_pipeline(CountVectorizer(), linear_model.LogisticRegression()).fit(["one two", "three"] * 5, [0, 1] * 5)
    with pytest.raises(EstimatorError, match="CountVectorizer does not take rows of numbers"):
        OnnxClassifier.from_estimator(words)


def test_coefficients_that_are_sparse():
    x, y = table()
    fitted = linear_model.LogisticRegression().fit(x, y > 0).sparsify()
    ours = OnnxClassifier.from_estimator(fitted)
    np.testing.assert_allclose(ours.predict_proba(x), fitted.predict_proba(x), atol=1e-9)


@pytest.mark.parametrize(
    "estimator, words, given",
    [
        (svm.LinearSVC(multi_class="crammer_singer"), "LinearSVC was not fitted by a loss of OnnxClassifier", {"loss": "hinge"}),
        (
            svm.LinearSVR(loss="squared_epsilon_insensitive", epsilon=0.1),
            "epsilon=0.1.*no such loss here",
            {"loss": "squared_error"},
        ),
        (linear_model.TweedieRegressor(power=1.5, link="identity"), "power=1.5.*no such loss", {"loss": "squared_error"}),
        (
            linear_model.SGDRegressor(loss="epsilon_insensitive", penalty=None, learning_rate="pa1", eta0=1.0),
            "learning_rate='pa1'.*say by which rate",
            {"learning_rate": "constant", "learning_rate_init": 1e-3},
        ),
    ],
    ids=lambda v: name(v) if hasattr(v, "fit") else "",
)
def test_a_loss_or_rate_that_is_none_of_ours_is_not_guessed(estimator, words, given):
    x, y = table()
    ours = OnnxClassifier if isinstance(estimator, svm.LinearSVC) else OnnxRegressor
    target = kinds(y) if ours is OnnxClassifier else np.abs(y) + 1
    fitted = clone(estimator).fit(x, target)
    with pytest.raises(EstimatorError, match=words):
        ours.from_estimator(fitted)
    moving = ours.from_estimator(fitted, **given)
    assert {name: getattr(moving, name) for name in given} == given
    moving.partial_fit(x, target)
    plain = OnnxRegressor.from_estimator(svm.LinearSVR(loss="squared_epsilon_insensitive").fit(x, y))
    assert plain.loss == "squared_error"


def test_a_linear_model_of_another_package():
    class Ones(RegressorMixin, BaseEstimator):
        def fit(self, X, y):
            self.coef_, self.intercept_ = np.ones(X.shape[1], int), 1
            return self

        def predict(self, X):
            return X.sum(1) + 1

    x, y = table()
    np.testing.assert_allclose(OnnxRegressor.from_estimator(Ones().fit(x, y)).predict(x), x.sum(1) + 1, atol=1e-9)


def test_steps_that_skl2onnx_writes_as_something_else():
    x, y = table()
    wrong = make_pipeline(LinearDiscriminantAnalysis(n_components=1), linear_model.LogisticRegression()).fit(x, kinds(y))
    with pytest.raises(EstimatorError, match="with the outputs .*, expected one"):
        OnnxClassifier.from_estimator(wrong)
    other = make_pipeline(Normalizer("max"), linear_model.Ridge()).fit(x, y)
    with pytest.raises(EstimatorError, match="Pipeline: its predict is not that of its graph"):
        OnnxRegressor.from_estimator(other)
