"""Estimators over ONNX graphs: given, exported, converted, with losses of the user's own."""

import pickle
import types

import numpy as np
import onnx
import onnxruntime
import pytest
import skl2onnx
from estimators import classes, quiet, same, table  # noqa: F401
from sklearn.base import clone
from sklearn.linear_model import SGDRegressor
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from train_models import mlp

from ortmod import ModelError
from ortmod.sklearn import OnnxClassifier, OnnxRegressor
from ortmod.training import (
    BaseLearningLoss,
    ElasticLearningPenalty,
    LearningRateSGD,
)


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
