"""Estimators: what goes wrong is a typed error, and the state unharmed."""

import pickle
import subprocess
import sys

import numpy as np
import onnx
import pytest
from estimators import classes, quiet, same, table  # noqa: F401
from sklearn.exceptions import NotFittedError
from train_models import linear

from ortmod import DTypeError, ModelError, OrtmodError, ShapeError
from ortmod.sklearn import DataError, DivergenceError, OnnxClassifier, OnnxRegressor, ParameterError
from ortmod.training import (
    BaseLearningLoss,
    ConvergenceError,
    NegLogLearningLoss,
)


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
    elif kind == "target words":
        y = np.full(len(y), "a")
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
        ("target words", DataError, "could not convert"),
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
    if kind not in ("rows", "target nan", "target words", "outputs"):
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
    assert "] [" not in str(caught.value)  # one stage
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


@pytest.mark.parametrize(
    "params, words",
    [
        (dict(batch_size=2.5), "batch_size.*got 2.5, expected a whole number"),
        (dict(max_iter="a"), "max_iter: got 'a', expected a number of at least 1"),
        (dict(max_iter=np.inf), "max_iter: got inf, expected a number of at least 1 and at most"),
        (dict(shuffle="no"), "shuffle: got 'no', expected True or False"),
        (dict(early_stopping=None), "early_stopping: got None, expected True or False"),
        (dict(nesterovs_momentum="False"), "nesterovs_momentum: got 'False'"),
        (dict(warm_start="yes"), "warm_start: got 'yes'"),
        (dict(verbose="a"), "verbose: got 'a'"),
        (dict(callback=3), "callback: got 3, expected a function"),
        (dict(beta_1=1.0), "beta_1: got 1.0"),
        (dict(random_state="a"), "random_state: 'a' cannot be used to seed"),
        (dict(random_state=-1), "random_state: Seed must be between"),
        (dict(random_state=np.random.default_rng(0)), "random_state: Generator"),
    ],
)
def test_arguments_of_the_wrong_kind(params, words):
    x, y = table()
    with pytest.raises(ParameterError, match=words) as caught:
        OnnxRegressor(**params).fit(x, y)
    assert isinstance(caught.value, ValueError)


def test_names_that_choose_no_weight_of_a_network():
    x, y = table()
    with pytest.raises(ModelError, match="frozen: got 'coef7', expected the name of an initializer"):
        OnnxRegressor(frozen="coef7").fit(x, y)
    with pytest.raises(ModelError, match="trainable: got 3, expected names of initializers"):
        OnnxRegressor(trainable=3).fit(x, y)
    with pytest.raises(ModelError, match="output: got 'z'"):
        OnnxRegressor(output="z").fit(x, y)


@pytest.mark.parametrize(
    "class_weight, words",
    [
        ("even", "class_weight: got 'even', expected None, 'balanced' or a dict"),
        ([1, 2], r"class_weight: got \[1, 2\], expected None"),
        ({"low": -1}, "class_weight: got -1 for class 'low', expected a finite number of at least 0"),
        ({"low": "a"}, "class_weight: got 'a' for class 'low'"),
        ({"lowest": 2}, r"class_weight: got weights for \['lowest'\], which are none of the classes"),
        ({"low": 0, "middle": 0, "high": 0}, "zero for every class"),
    ],
)
def test_wrong_weights_of_classes(class_weight, words):
    x, y = table()
    trained = OnnxClassifier(hidden_layer_sizes=(4,), max_iter=2, random_state=0).fit(x, classes(y))
    before = pickle.loads(pickle.dumps(trained))
    for method in (trained.fit, trained.partial_fit):
        with pytest.raises(OrtmodError, match=words) as caught:
            trained.set_params(class_weight=class_weight)
            method(x, classes(y))
        assert isinstance(caught.value, ValueError)
    assert same(before, trained)


def test_where_weights_of_classes_cannot_be():
    x, y = table()
    with pytest.raises(ParameterError, match="class_weight='balanced' is not for partial_fit"):
        OnnxClassifier(class_weight="balanced").partial_fit(x, y > 0, classes=[False, True])
    with pytest.raises(ParameterError, match="class_weight has no effect at batch_size=1"):
        OnnxClassifier(class_weight="balanced", batch_size=1).fit(x, y > 0)
    with pytest.raises(ParameterError, match="not for columns of labels"):
        OnnxClassifier(class_weight="balanced").fit(x, np.c_[y > 0, y < 0.5].astype(int))
    with pytest.warns(UserWarning, match="sample_weight has no effect at batch_size=1"):
        OnnxRegressor(batch_size=1, max_iter=1).fit(x, y, np.arange(1.0, len(x) + 1))


def test_columns_of_labels_that_are_not_those_of_before():
    x, y = table()
    labels = np.c_[y > 0, y < 0.5].astype(int)
    with pytest.raises(ShapeError, match="classes: got 3, expected 2, one per column of y"):
        OnnxClassifier().partial_fit(x, labels, classes=[0, 1, 2])
    trained = OnnxClassifier(hidden_layer_sizes=(4,), random_state=0).partial_fit(x, labels, classes=[0, 1])
    before = pickle.loads(pickle.dumps(trained))
    with pytest.raises(ShapeError, match="got 3 columns of labels, expected 2 as before"):
        trained.partial_fit(x, np.c_[labels, y > 1].astype(int))
    assert same(before, trained)


def test_classes_of_several_kinds():
    x, y = table()
    for given in ([0, {}], [[0, 1], [2]], [0, 1, None]):
        with pytest.raises(DataError, match="classes: got .*, expected labels of one kind"):
            OnnxClassifier().partial_fit(x, y > 0, classes=given)
    trained = OnnxClassifier().partial_fit(x, classes(y), classes={"low", "middle", "high"})
    assert trained.classes_.tolist() == ["high", "low", "middle"]
