"""Graphs of fitted estimators: what comes before the last step through skl2onnx, the last step as layers that train."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from scipy.sparse import issparse
from sklearn.base import is_classifier, is_regressor
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import (
    ElasticNet,
    ElasticNetCV,
    HuberRegressor,
    Lasso,
    LassoCV,
    LassoLars,
    LassoLarsCV,
    LassoLarsIC,
    LogisticRegression,
    LogisticRegressionCV,
    MultiTaskElasticNet,
    PassiveAggressiveRegressor,
    QuantileRegressor,
    SGDClassifier,
    SGDRegressor,
    TweedieRegressor,
)
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.svm import LinearSVC, LinearSVR
from sklearn.utils.validation import check_is_fitted

from ortmod._errors import DTypeError, OrtmodError
from ortmod._model import load
from ortmod.sklearn import _network as network
from ortmod.sklearn._base import OnnxEstimator
from ortmod.sklearn._errors import EstimatorError, ParameterError
from ortmod.sklearn._losses import EpsilonInsensitiveLearningLoss
from ortmod.training.sgd_learning_loss import HuberLearningLoss
from ortmod.training.sgd_learning_rate import LearningRateSGD

_MLP = (
    "learning_rate learning_rate_init power_t momentum nesterovs_momentum alpha batch_size max_iter tol n_iter_no_change shuffle "
    "beta_1 beta_2 epsilon early_stopping validation_fraction"
).split()
_SGD = "alpha penalty l1_ratio max_iter tol n_iter_no_change shuffle early_stopping validation_fraction".split()
_LASSOS, _ELASTIC_NETS = (Lasso, LassoCV, LassoLars, LassoLarsCV, LassoLarsIC), (ElasticNet, ElasticNetCV)
_SGD_LOSSES = {"log_loss": "binary_log_loss", "hinge": "hinge", "squared_hinge": "squared_hinge"}

Layers = Sequence[tuple[np.ndarray, np.ndarray]]


@dataclass
class Converted:
    estimator: Any
    model: onnx.ModelProto
    params: dict[str, Any]
    outputs: int
    features: int
    flat: bool = True
    classes: np.ndarray = field(default_factory=lambda: np.zeros(0))
    multilabel: bool = False
    feature_names: np.ndarray | None = None
    named: bool = False
    progress: dict[str, int] = field(default_factory=dict)

    def check(self, result: Any) -> None:
        """Refuses an estimator whose predictions on some rows are not those of its graph."""
        X = np.random.default_rng(0).normal(size=(16, self.features))
        method = next(m for m in ("decision_function", "predict_proba", "predict") if hasattr(self.estimator, m))
        if self.multilabel:
            method = "predict"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = np.asarray(getattr(self.estimator, method)(_frame(X, self.feature_names) if self.named else X))
            got = getattr(result, method)(X)
        close = 1e-8 if got.dtype == np.float64 else 1e-3
        if got.shape != expected.shape or not np.allclose(got, expected, rtol=close, atol=close, equal_nan=True):
            if isinstance(self.estimator, Pipeline):
                raise EstimatorError(
                    f"[convert] Pipeline: its {method} is not that of its graph, so what skl2onnx wrote for a step is something "
                    "else, or the last one is no linear model or network that could go on training"
                )
            raise EstimatorError(
                f"[convert] {type(self.estimator).__name__}: its {method} is not that of its coefficients, so it is no linear "
                "model or network that could go on training"
            )


def _refuse(estimator: Any) -> EstimatorError:
    name, module = type(estimator).__name__, type(estimator).__module__
    if isinstance(estimator, OnnxEstimator):
        why = "it trains as it is: with partial_fit, or with fit and warm_start=True"
    elif hasattr(estimator, "best_estimator_"):
        why = "it is a search; give its best_estimator_"
    elif hasattr(estimator, "regressor_"):
        why = "it transforms y; give its regressor_, which predicts the transformed y"
    elif hasattr(estimator, "calibrated_classifiers_"):
        why = "its probabilities are calibrated, not those of a loss; give the classifier itself"
    elif name.startswith(("Voting", "Stacking", "Bagging")):
        why = "it combines several estimators; give one of them, if that is a linear model or a network"
    elif hasattr(estimator, "tree_") or ".tree" in module or ".ensemble" in module:
        why = "the splits of trees have no gradient, so there is nothing to train"
    elif ".svm" in module:
        why = "its support vectors are rows of the training data, no weights; LinearSVC and LinearSVR can go on training"
    elif hasattr(estimator, "estimator_"):
        why = "it is made around another estimator; give its estimator_, and the rows that this one takes"
    elif hasattr(estimator, "estimators_"):
        why = "it combines several estimators; give one of its estimators_, if that is a linear model or a network"
    else:
        why = "it has neither coef_ and intercept_ nor coefs_ and intercepts_"
    return EstimatorError(f"[convert] {name}: {why}")


def _layers(estimator: Any) -> tuple[Layers, str]:
    if isinstance(estimator, MLPRegressor | MLPClassifier):
        return list(zip(estimator.coefs_, estimator.intercepts_, strict=True)), estimator.activation
    if isinstance(estimator, OnnxEstimator) or not hasattr(estimator, "coef_") or not hasattr(estimator, "intercept_"):
        raise _refuse(estimator)
    coef = estimator.coef_.toarray() if issparse(estimator.coef_) else estimator.coef_  # after sparsify()
    coef = np.atleast_2d(np.asarray(coef)).T
    intercept = np.broadcast_to(np.ravel(estimator.intercept_), (coef.shape[1],))
    return [(coef, intercept)], "identity"


def _params(estimator: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    weights = getattr(estimator, "class_weight", None) if is_classifier(estimator) else None
    return {**_penalty(estimator), **_plan(estimator, given), **({"class_weight": weights} if weights is not None else {})}


def _penalty(estimator: Any) -> dict[str, Any]:
    """The penalty of an estimator whose mean squared loss is that of here."""
    alpha = getattr(estimator, "alpha_", getattr(estimator, "alpha", 0.0))
    if isinstance(estimator, TweedieRegressor):
        return {"penalty": "l2", "alpha": float(alpha)}
    if isinstance(estimator, MultiTaskElasticNet) or not isinstance(estimator, _LASSOS + _ELASTIC_NETS):
        return {}
    if isinstance(estimator, _LASSOS):
        return {"penalty": "l1", "alpha": float(alpha)}
    return {"penalty": "elasticnet", "alpha": float(alpha), "l1_ratio": float(getattr(estimator, "l1_ratio_", estimator.l1_ratio))}


def _plan(estimator: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(estimator, MLPRegressor | MLPClassifier):
        params = {name: getattr(estimator, name) for name in _MLP}
        if estimator.solver != "lbfgs":
            params["solver"] = estimator.solver
        if isinstance(estimator, MLPRegressor) and getattr(estimator, "loss", "squared_error") != "squared_error":
            raise EstimatorError(
                f"[convert] {type(estimator).__name__}(loss={estimator.loss!r}): its output is not the last layer's"
            )
        return params
    if isinstance(estimator, SGDRegressor | SGDClassifier):
        return {**_sgd(estimator, given), **_sgd_loss(estimator, given)}
    if isinstance(estimator, LinearSVC) and (estimator.multi_class != "crammer_singer" or "loss" in given):
        return {"loss": estimator.loss}
    if isinstance(estimator, LinearSVR) and estimator.loss != "epsilon_insensitive" and "loss" not in given:
        if estimator.epsilon:
            raise EstimatorError(
                f"[convert] LinearSVR(loss={estimator.loss!r}, epsilon={estimator.epsilon}): no such loss here; say by which it "
                "goes on with loss="
            )
        return {"loss": "squared_error"}
    if isinstance(estimator, TweedieRegressor) and estimator.power and "loss" not in given:
        raise EstimatorError(
            f"[convert] TweedieRegressor(power={estimator.power}): no such loss here; say by which it goes on with loss="
        )
    if isinstance(estimator, LinearSVR):
        return {"loss": EpsilonInsensitiveLearningLoss(float(estimator.epsilon))}
    if isinstance(estimator, QuantileRegressor):
        if estimator.quantile != 0.5 and "loss" not in given:
            raise EstimatorError(
                f"[convert] QuantileRegressor(quantile={estimator.quantile}): there is no such loss here but that of the median, "
                "quantile=0.5; say by which it goes on with loss="
            )
        if estimator.quantile != 0.5:
            return {}
        return {"loss": "absolute_error", "penalty": "l1", "alpha": 2 * float(estimator.alpha)}  # its loss is half of ours
    if isinstance(estimator, PassiveAggressiveRegressor) and "loss" not in given:
        raise EstimatorError(
            "[convert] PassiveAggressiveRegressor was fitted by updates of its own, not by the gradient of a loss; say by which it "
            "goes on: loss='epsilon_insensitive', 'squared_error' or another one"
        )
    if isinstance(estimator, HuberRegressor):
        return {"loss": HuberLearningLoss(float(estimator.epsilon * estimator.scale_))}
    if isinstance(estimator, LogisticRegression | LogisticRegressionCV):
        return {"loss": "binary_log_loss" if estimator.solver == "liblinear" else "log_loss"}
    if is_classifier(estimator) and "loss" not in given:
        raise EstimatorError(
            f"[convert] {type(estimator).__name__} was not fitted by a loss of OnnxClassifier; say by which it goes on: "
            "loss='log_loss', 'hinge' or another one"
        )
    return {}


def _sgd(estimator: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    params = {name: getattr(estimator, name) for name in _SGD}
    rate = estimator.learning_rate
    params.update(momentum=0.0, batch_size=1, learning_rate_init=float(estimator.eta0) or 1e-3)
    if rate in ("invscaling", "optimal"):
        params["learning_rate"] = LearningRateSGD(
            float(estimator.eta0), float(estimator.alpha), float(estimator.power_t), rate, period="update", convention="sklearn"
        )
    elif rate in ("constant", "adaptive"):
        params["learning_rate"] = rate
    elif "learning_rate" not in given:
        raise EstimatorError(
            f"[convert] {type(estimator).__name__}(learning_rate={rate!r}) was fitted by updates of its own, not by a rate times "
            "the gradient of a loss; say by which rate it goes on: learning_rate='constant' and learning_rate_init=, or another one"
        )
    if params["penalty"] is None:
        params["alpha"] = 0.0
    return params


def _progress(estimator: Any) -> dict[str, int]:
    """How far the rate of a linear model or network had come."""
    if isinstance(estimator, SGDRegressor | SGDClassifier):
        return {"samples": int(estimator.t_) - 1, "updates": int(estimator.t_) - 1}
    if isinstance(estimator, MLPRegressor | MLPClassifier) and estimator.solver == "sgd":
        return {"samples": int(estimator.t_)}
    return {}


def _sgd_loss(estimator: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    name = estimator.loss
    if "loss" in given or name == "squared_error" and isinstance(estimator, SGDRegressor):
        return {}
    if isinstance(estimator, SGDClassifier) and name in _SGD_LOSSES:
        return {"loss": _SGD_LOSSES[name]}
    if isinstance(estimator, SGDRegressor) and name == "huber":
        return {"loss": HuberLearningLoss(float(estimator.epsilon))}
    if isinstance(estimator, SGDRegressor) and name == "epsilon_insensitive":
        return {"loss": EpsilonInsensitiveLearningLoss(float(estimator.epsilon))}
    raise EstimatorError(
        f"[convert] {type(estimator).__name__}(loss={name!r}): no such loss here; say by which it goes on with loss="
    )


def _frame(X: np.ndarray, names: Any) -> Any:
    """Rows by the names of their columns, for steps that choose columns by name."""
    try:
        import pandas as pd

        return pd.DataFrame(X, columns=names)
    except ImportError:
        import polars as pl

        return pl.DataFrame(X, schema=list(names))


def _by_name(estimator: Any) -> bool:
    """Whether a step chooses columns by name."""
    if isinstance(estimator, ColumnTransformer):
        chosen = [(c.start, c.stop) if isinstance(c, slice) else c for _, _, c in estimator.transformers]
        return any(callable(c) or any(isinstance(v, str) for v in np.ravel(np.asarray(c, object))) for c in chosen)
    return isinstance(estimator, Pipeline | FeatureUnion) and any(_by_name(step) for _, step in _children(estimator))


def _children(estimator: Any) -> list[tuple[str, Any]]:
    return estimator.steps if isinstance(estimator, Pipeline) else estimator.transformer_list


def _before(pipeline: Any, features: int, dtype: Any, names: Any) -> tuple[onnx.ModelProto, str]:
    """The steps before the last one as a graph without an output, and the name of its result; `names` of the columns of X, where
    steps choose by them."""
    try:
        from skl2onnx import convert_sklearn
        from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType
    except ImportError as error:
        raise EstimatorError(
            "[convert] pipelines are converted by skl2onnx, which is not installed: pip install skl2onnx"
        ) from error

    kind = DoubleTensorType if dtype == np.float64 else FloatTensorType
    types = [("X", kind([None, features]))] if names is None else [(str(name), kind([None, 1])) for name in names]
    try:
        proto = convert_sklearn(pipeline, initial_types=types, target_opset={"": network.OPSET, "ai.onnx.ml": 3})
    except Exception as error:
        raise EstimatorError(f"[convert] skl2onnx does not convert the steps before the last one: {error}") from error
    graph = proto.graph
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    if names is not None:
        if len(graph.input) != len(names):
            raise EstimatorError(f"[convert] skl2onnx made {len(graph.input)} inputs of the columns {', '.join(map(str, names))}")
        columns = {i.name: f"X_column{number}" for number, i in enumerate(graph.input)}
        for node in graph.node:
            node.input[:] = [columns.get(n, n) for n in node.input]
        del graph.input[:]
        graph.input.append(helper.make_tensor_value_info("X", code, ["N", features]))
        for number, name in enumerate(columns.values()):
            graph.initializer.append(numpy_helper.from_array(np.array([number], np.int64), f"{name}_index"))
            graph.node.insert(0, helper.make_node("Gather", ["X", f"{name}_index"], [name], axis=1))
    if len(graph.output) != 1:
        raise EstimatorError(
            f"[convert] skl2onnx wrote the steps before the last one with the outputs {', '.join(o.name for o in graph.output)}, "
            "expected one, the rows that the last step takes"
        )
    value = graph.output[0]
    if value.type.tensor_type.elem_type != code:
        graph.node.append(helper.make_node("Cast", [value.name], ["features"], to=code))
        name = "features"
    else:
        name = value.name
    del graph.output[:]
    return proto, name


def _check_graph(proto: onnx.ModelProto, dtype: Any) -> None:
    try:
        load(proto)
    except OrtmodError as error:
        other = "; dtype=numpy.float32 may do" if dtype == np.float64 else ""
        raise EstimatorError(f"[convert] what skl2onnx wrote cannot be used: {error}{other}") from error


def _steps(estimator: Any) -> list[tuple[str, Any]]:
    """The steps of a pipeline, those of pipelines within it in their places; none of another estimator."""
    found: list[tuple[str, Any]] = []
    for name, step in estimator.steps if isinstance(estimator, Pipeline) else ():
        if isinstance(step, Pipeline):
            found += [(f"{name}_{inner}", s) for inner, s in _steps(step)]
        elif step is not None and not isinstance(step, str):
            found.append((name, step))
    return found


def convert(estimator: Any, dtype: Any, given: Mapping[str, Any], classifier: bool) -> Converted:
    if isinstance(estimator, type) or not hasattr(estimator, "fit"):
        raise ParameterError(f"[convert] estimator: got {estimator!r}, expected a fitted estimator of scikit-learn")
    check_is_fitted(estimator)
    named = _steps(estimator)
    steps = [step for _, step in named]
    last = steps[-1] if steps else estimator
    if not (is_classifier(last) if classifier else is_regressor(last)):
        wanted = "classifier" if classifier else "regressor"
        other = "OnnxClassifier" if is_classifier(last) else "OnnxRegressor" if is_regressor(last) else ""
        raise EstimatorError(
            f"[convert] {type(last).__name__} is no {wanted}" + (f"; give it to {other}.from_estimator" if other else "")
        )
    layers, activation = _layers(last)
    free = dtype is None
    try:
        dtype = np.dtype(dtype) if dtype is not None else np.result_type(layers[0][0], np.float32)
    except TypeError:
        raise DTypeError(f"[convert] dtype: got {dtype!r}, expected float32 or float64") from None
    if dtype not in (np.float32, np.float64):
        raise DTypeError(f"[convert] dtype: got {dtype}, expected float32 or float64")
    layers = [(np.ascontiguousarray(w, dtype), np.ascontiguousarray(b, dtype)) for w, b in layers]
    columns_in = getattr(steps[0], "n_features_in_", None) if len(steps) > 1 else layers[0][0].shape[0]
    if columns_in is None:
        raise EstimatorError(f"[convert] {type(steps[0]).__name__} does not take rows of numbers; give the steps after it")
    features = int(columns_in)
    feature_names = getattr(estimator, "feature_names_in_", None)
    chosen_by_name = feature_names is not None and any(_by_name(step) for step in steps[:-1])
    output = "scores" if classifier else "y"
    if len(steps) > 1:
        try:
            proto, value = _before(Pipeline(named[:-1]), features, dtype, feature_names if chosen_by_name else None)
            names = network.append_layers(proto.graph, value, layers, activation, output)
            _check_graph(proto, dtype)
        except EstimatorError as error:
            if not free or dtype != np.float64:
                raise
            result = convert(estimator, np.float32, given, classifier)
            warnings.warn(f"{type(estimator).__name__} goes on in float32; in float64: {error}", stacklevel=3)
            return result
    else:
        proto = network.network(layers, activation, output)
        names = [n for pair in network.layer_names(len(layers)) for n in pair]
    if getattr(last, "fit_intercept", True) is False:
        names.remove("intercept")  # it stays at zero
    params = {"trainable": names, **_params(last, given)}
    columns = layers[-1][0].shape[1]
    result = Converted(estimator, proto, params, columns, features)
    result.feature_names, result.named = feature_names, chosen_by_name
    result.progress = _progress(last)
    if not classifier:
        result.flat = columns == 1 and np.ndim(getattr(last, "coef_", 0)) < 2
    else:
        result.classes = np.asarray(last.classes_)
        result.multilabel = getattr(getattr(last, "_label_binarizer", None), "y_type_", "").startswith("multilabel")
    return result
