"""Each defect that is known of onnxcustom's training, by name: what it did wrong is right here."""

import copy
import pickle

import numpy as np
import onnx
import pytest
import torch
from train_models import linear, mlp

import ortmod
from ortmod.training import (
    AbsoluteLearningLoss,
    ConvergenceError,
    ConvergenceWarning,
    DataError,
    ElasticLearningLoss,
    ElasticLearningPenalty,
    LearningRateSGD,
    LearningRateSGDNesterov,
    NegLogLearningLoss,
    OrtDataLoader,
    OrtGradientForwardBackward,
    OrtGradientForwardBackwardOptimizer,
    OrtGradientOptimizer,
    ParameterError,
    SquareLearningLoss,
    add_loss_output,
    function_onnx_graph,
)
from ortmod.training.sgd_learning_loss import BaseLearningLoss
from ortmod.training.sgd_learning_rate import BaseLearningRate


def table(rows=57, features=3, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, features)).astype(np.float32)
    return x, (x @ np.arange(1.0, features + 1) + 0.5).astype(np.float32)


def partial(model=None, **options):
    return OrtGradientForwardBackwardOptimizer(
        model or linear(3), **{"max_iter": 10, "random_state": 0, "init": "model", **options}
    )


@pytest.mark.parametrize("loss", [AbsoluteLearningLoss(), ElasticLearningLoss(0.7, 0.3), ElasticLearningLoss(1.0, 0.0)])
def test_sign_of_the_l1_gradient(loss):
    y, p = np.array([[1.0], [2.0]], np.float32), np.array([[0.0], [5.0]], np.float32)
    gradient = loss.loss_gradient(y, p)[1]
    assert gradient[0, 0] < 0 < gradient[1, 0]
    l1, l2 = (1.0, 0.0) if isinstance(loss, AbsoluteLearningLoss) else (loss.l1_weight, loss.l2_weight)
    np.testing.assert_allclose(gradient, l1 * np.sign(p - y) + 2 * l2 * (p - y), rtol=1e-6)


@pytest.mark.parametrize("loss", ["absolute", "elastic"])
def test_descent_on_l1_and_elastic_losses_goes_down(loss):
    x, y = table()
    losses = (
        partial(learning_loss=loss, learning_rate=LearningRateSGD(0.05, learning_rate="constant"), max_iter=20)
        .fit(x, y)
        .train_losses_
    )
    assert losses[-1] < losses[0] / 2


def test_function_onnx_graph_has_the_right_signs():
    from onnxruntime import InferenceSession

    y, p = np.array([[1.0], [2.0]], np.float32), np.array([[0.0], [5.0]], np.float32)
    for name, l1, l2 in (("grad_loss_absolute_error", 1, 0), ("grad_loss_elastic_error", 0.01, 0.01)):
        session = InferenceSession(function_onnx_graph(name).SerializeToString())
        value, gradient = session.run(["Y", "Y_grad"], {"X1": y, "X2": p})
        np.testing.assert_allclose(value, [l1 * np.abs(p - y).sum() + l2 * ((p - y) ** 2).sum()], rtol=1e-6)
        np.testing.assert_allclose(gradient, l1 * np.sign(p - y) + 2 * l2 * (p - y), rtol=1e-6)


def test_the_score_has_the_factor_of_the_training_loss():
    x, y = table()
    trained = partial(learning_rate=1e-12, max_iter=1).fit(x, y)
    assert trained.score(x, y) == pytest.approx(-trained.train_losses_[0], rel=1e-5)


def test_warm_start_continues_weights_and_velocities():
    x, y = table()
    rate = LearningRateSGDNesterov(0.01, learning_rate="constant")
    whole, part = partial(learning_rate=rate, warm_start=True), partial(learning_rate=rate, warm_start=True, max_iter=5)
    whole.fit(x, y)
    part.fit(x, y).fit(x, y)
    for kind in ("weight", "grad"):
        for a, b in zip(whole.get_state(kind), part.get_state(kind), strict=True):
            np.testing.assert_array_equal(a, b)


def test_pickling_keeps_the_velocities_not_the_weights_twice():
    x, y = table()
    trained = partial(learning_rate=LearningRateSGDNesterov(0.01)).fit(x, y)
    again = pickle.loads(pickle.dumps(trained))
    for a, b in zip(trained.get_state("grad"), again.get_state("grad"), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(again.get_state("grad")[0], again.get_state()[0])


def test_losses_and_score_work_after_pickling_without_a_new_fit():
    x, y = table()
    trained = partial().fit(x, y)
    again = pickle.loads(pickle.dumps(trained))
    np.testing.assert_array_equal(again.losses(x, y), trained.losses(x, y))
    assert again.score(x, y) == trained.score(x, y)


def test_losses_are_in_the_order_of_the_rows():
    x, y = table()
    trained = partial(batch_size=10).fit(x, y)
    np.testing.assert_allclose(trained.losses(x, y), 0.5 * (trained.predict(x).ravel() - y) ** 2, rtol=1e-4, atol=1e-9)


def test_the_loader_gives_every_row_once_and_the_last_one_too():
    x = np.arange(53.0).reshape(-1, 1)
    loader = OrtDataLoader(x, x, batch_size=10, seed=0)
    passes = [np.concatenate([b[0].ravel() for b in loader.iter_numpy()]) for _ in range(3)]
    for rows in passes:
        np.testing.assert_array_equal(np.sort(rows), x.ravel())
    assert not np.array_equal(passes[0], passes[1]) and not np.array_equal(passes[0], np.sort(passes[0]))


def test_the_loader_keeps_several_targets_and_needs_no_full_last_batch():
    x, y = np.zeros((7, 2)), np.arange(14.0).reshape(7, 2)
    batches = [b[1] for b in OrtDataLoader(x, y, batch_size=3, random_iter=False).iter_numpy()]
    assert [len(b) for b in batches] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(batches), y)


def test_sample_weights_are_not_broadcast_to_n_by_n():
    x, y = table(20)
    w = np.linspace(0.1, 2, 20).astype(np.float32)
    model = add_loss_output(linear(3), weight_name="weight")
    from onnxruntime import InferenceSession

    loss = InferenceSession(model.SerializeToString()).run(["loss"], {"X": x, "label": y.reshape(-1, 1), "weight": w})[0]
    np.testing.assert_allclose(loss, [[(w * y**2).sum()]], rtol=1e-5)


def test_validation_loss_with_sample_weights_in_the_graph_is_not_zero():
    x, y = table()
    model = add_loss_output(linear(3), weight_name="weight")
    trained = OrtGradientOptimizer(model, ["coef", "intercept"], max_iter=4, validation_every=1, init="model", learning_rate=1e-12)
    trained.fit(x, y, np.ones(len(x), np.float32), X_val=x, y_val=y)
    assert len(trained.validation_losses_) == 4
    assert trained.validation_losses_[0] == pytest.approx((y**2).mean(), rel=1e-4)


def test_the_loss_output_may_have_any_name():
    x, y = table()
    model = add_loss_output(linear(3), loss_name="cost")
    trained = OrtGradientOptimizer(model, ["coef", "intercept"], loss_output_name="cost", max_iter=3, init="model").fit(x, y)
    assert trained.train_losses_[-1] < trained.train_losses_[0]


def test_momentum_works_with_the_loss_in_the_graph():
    x, y = table()
    rate = LearningRateSGDNesterov(0.01, learning_rate="constant")
    full = OrtGradientOptimizer(
        add_loss_output(linear(3)), ["coef", "intercept"], learning_rate=rate, max_iter=5, init="model", shuffle=False
    ).fit(x, y)
    half = partial(learning_loss=SquareLearningLoss("torch"), learning_rate=rate, max_iter=5, shuffle=False).fit(x, y)
    for name, value in full.get_state().items():
        np.testing.assert_allclose(value, half.trained_coef_[name], rtol=1e-4, atol=1e-6)


def test_the_penalty_is_scaled_by_the_rate():
    x, y = np.zeros((10, 3), np.float32), np.zeros(10, np.float32)
    trained = partial(
        mlp([3, 1]),
        learning_rate=LearningRateSGD(0.01, learning_rate="constant"),
        learning_penalty=ElasticLearningPenalty(0.5, 0.5, weights=["w0"]),
        max_iter=1,
        batch_size=10,
    )
    trained.fit(x, y)
    w = onnx.numpy_helper.to_array(mlp([3, 1]).graph.initializer[0])
    np.testing.assert_allclose(trained.trained_coef_["w0"], w - 0.01 * (0.5 * np.sign(w) + 2 * 0.5 * w) / 10, rtol=1e-5)


def test_the_default_penalty_does_not_overwrite_the_weights():
    x, y = table()
    trained = partial(
        learning_penalty=ElasticLearningPenalty(), learning_rate=LearningRateSGD(0.05, learning_rate="constant"), max_iter=40
    )
    trained.fit(x, y)
    np.testing.assert_allclose(trained.trained_coef_["coef"].ravel(), [1, 2, 3], atol=0.5)


def test_the_penalty_may_leave_biases_out():
    x, y = np.zeros((10, 3), np.float32), np.ones(10, np.float32)
    penalty = ElasticLearningPenalty(0, 100.0, weights="coef", convention="torch")
    trained = partial(
        learning_penalty=penalty, learning_rate=LearningRateSGD(0.01, learning_rate="constant"), max_iter=300, batch_size=0
    )
    trained.fit(x, y)
    assert trained.trained_coef_["intercept"][0] == pytest.approx(1, abs=0.06)


def test_the_gradient_is_divided_by_the_rows_of_the_batch_not_by_the_batch_size():
    x, y = table(7)
    trained = partial(learning_rate=LearningRateSGD(0.1, learning_rate="constant"), max_iter=1, batch_size=1000).fit(x, y)
    np.testing.assert_allclose(trained.trained_coef_["coef"].ravel(), 0.1 * (x * y[:, None]).mean(0), rtol=1e-4)


@pytest.mark.parametrize("names", [["intercept", "coef"], ["coef", "intercept"], None])
def test_weights_come_in_any_order(names):
    x, y = table()
    trained = partial(weights_to_train=names, learning_rate=0.1, max_iter=60).fit(x, y)
    np.testing.assert_allclose(trained.trained_coef_["coef"].ravel(), [1, 2, 3], atol=1e-2)
    OrtGradientForwardBackward(linear(3), names)


def test_the_rate_falls_after_the_first_epoch_and_loop_gives_the_same_series():
    x, y = table()
    rate = LearningRateSGD(0.01, power_t=0.25)
    reports = partial(learning_rate=rate, max_iter=4).fit(x, y).history_
    expected = [0.01 / (k + 1) ** 0.25 for k in range(4)]
    assert [r["learning_rate"] for r in reports] == pytest.approx(expected)
    assert list(rate.loop(4)) == pytest.approx(expected)


def test_the_adaptive_schedule_exists():
    x, y = table()
    rate = LearningRateSGD(0.5, learning_rate="adaptive")
    reports = partial(learning_rate=rate, max_iter=60, n_iter_no_change=2, tol=1e-3).fit(x, y).history_
    assert reports[-1]["learning_rate"] < reports[0]["learning_rate"]


def test_names_of_classes_select_them():
    assert isinstance(BaseLearningLoss.select("SquareLearningLoss"), SquareLearningLoss)
    assert isinstance(BaseLearningRate.select("LearningRateSGDNesterov"), LearningRateSGDNesterov)
    assert BaseLearningRate.select(1).eta0 == 1.0


def test_validation_with_few_epochs_does_not_divide_by_zero():
    x, y = table()
    trained = partial(max_iter=3, validation_every=0.1).fit(x, y, X_val=x, y_val=y)
    assert len(trained.validation_losses_) == 3


def test_a_loss_that_is_not_finite_leaves_the_weights_as_they_were():
    x, y = table()
    rate = LearningRateSGD(1e20, learning_rate="constant")
    with pytest.raises(ConvergenceError, match="lower the learning rate"):
        partial(learning_rate=rate).fit(x, y)
    trained = partial(learning_rate=rate, exc=False)
    with pytest.warns(ConvergenceWarning):
        trained.fit(x, y)
    assert all(np.all(v == 0) for v in trained.get_state())


def test_rows_far_on_the_wrong_side_keep_their_gradient():
    gradient = NegLogLearningLoss().loss_gradient(np.array([[1], [0]], np.int64), np.array([[-50.0], [50.0]], np.float32))[1]
    np.testing.assert_allclose(gradient, [[-1.0], [1.0]], atol=1e-6)


def test_float64_stays_float64():
    x, y = (v.astype(np.float64) for v in table())
    trained = partial(linear(3, dtype=np.float64)).fit(x, y)
    assert trained.get_state()[0].dtype == np.float64 and trained.predict(x).dtype == np.float64


def test_gradients_of_graphs_run_on_the_stock_runtime():
    from onnxruntime import InferenceSession

    from ortmod.training import onnx_derivative

    x, _ = table()
    session = InferenceSession(onnx_derivative(mlp([3, 4, 1])).SerializeToString())
    names = [i.name for i in session.get_inputs()]
    outputs = session.run(None, {"X": x, "y_grad": np.ones((len(x), 1), np.float32)})
    assert names[:2] == ["X", "y_grad"] and outputs[0].shape == x.shape


def test_no_sign_of_mutable_state_in_shared_objects():
    """A learning rate object may serve two trainings."""
    x, y = table()
    rate = LearningRateSGD(0.05)
    a = partial(learning_rate=rate).fit(x, y).get_state()
    b = partial(learning_rate=rate).fit(x, y).get_state()
    assert all(np.array_equal(u, v) for u, v in zip(a, b, strict=True))
    assert copy.deepcopy(rate) == rate


BAD = [
    (dict(weights_to_train=["none"]), {}, ortmod.ModelError, "none"),
    (dict(weights_to_train=[]), {}, ortmod.GradientError, "nothing to train"),
    ({}, dict(X=np.zeros((57, 4), np.float32)), ortmod.ShapeError, 'wrong shape of "X"'),
    ({}, dict(X=np.full((57, 3), np.nan, np.float32)), DataError, "NaN or infinity"),
    ({}, dict(X=np.array([["a"] * 3] * 57, dtype=object)), ortmod.DTypeError, "object"),
    ({}, dict(y=np.zeros(56, np.float32)), ortmod.ShapeError, "rows"),
    ({}, dict(sample_weight=np.ones((57, 2), np.float32)), ortmod.ShapeError, "sample_weight"),
]


@pytest.mark.parametrize("options, data, error, says", BAD)
def test_bad_input_is_refused_in_words_and_leaves_the_state(options, data, error, says):
    x, y = table()
    trained = partial(warm_start=True).fit(x, y)
    before = copy.deepcopy(trained.get_state())
    trained.set_params(**options)
    with pytest.raises(error, match=says):
        trained.fit(**{"X": x, "y": y, **data})
    trained.set_params(weights_to_train=None)
    for a, b in zip(before, trained.get_state(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "options, says",
    [
        (dict(learning_loss="unknown"), "learning_loss"),
        (dict(learning_penalty="unknown"), "learning_penalty"),
        (dict(learning_rate="unknown"), "learning_rate"),
        (dict(batch_size=-1), "batch_size"),
        (dict(max_iter=1.5), "max_iter"),
        (dict(training_optimizer_name="Lion"), "training_optimizer_name"),
        (dict(init="zeros"), "init"),
    ],
)
def test_bad_arguments_are_refused_at_once(options, says):
    with pytest.raises((ParameterError, NotImplementedError), match=rf"{says}: got"):
        partial(**options)


class Shifted(BaseLearningLoss):
    """A user's loss: the fourth power of the difference."""

    def __init__(self, weighted_inputs=2):
        self.weighted_inputs = weighted_inputs

    def build_onnx_function(self, dtype=np.float32):
        extra = ", float[n] weight" if self.weighted_inputs == 3 else ""
        return f"""<ir_version: 8, opset_import: ["" : 18]>
        fourth (float[n, k] expected, float[n, k] predicted{extra}) => (float loss) {{
            d = Sub(predicted, expected)
            two = Mul(d, d)
            four = Mul(two, two)
            loss = ReduceSum<keepdims = 0>(four)
        }}"""


def test_a_subclass_with_a_graph_of_its_own_plugs_in():
    x, y = table()
    trained = partial(learning_loss=Shifted(), learning_rate=LearningRateSGD(0.003, learning_rate="constant"), max_iter=300)
    trained.fit(x, y.reshape(-1, 1))
    assert trained.train_losses_[-1] < 1e-3 < trained.train_losses_[0]
    with pytest.raises(ortmod.ModelError, match="takes no sample weights"):
        trained.fit(x, y.reshape(-1, 1), np.ones(len(x)))


def test_several_inputs_outputs_and_targets():
    text = """<ir_version: 8, opset_import: ["" : 17]>
    two (float[N, 2] A, float[N, 1] B) => (float[N, 1] p, float[N, 2] q) {
        a = MatMul(A, w)
        p = Add(a, B)
        q = MatMul(A, v)
    }"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((2, 2), np.float32), "v"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((2, 1), np.float32), "w"))
    random = np.random.default_rng(0)
    a, b = random.normal(size=(40, 2)).astype(np.float32), random.normal(size=(40, 1)).astype(np.float32)
    w, v = np.array([[1.0], [2.0]], np.float32), np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    trained = OrtGradientForwardBackwardOptimizer(
        model,
        learning_loss=["square", "square"],
        learning_rate=LearningRateSGD(0.1, learning_rate="constant"),
        max_iter=80,
        random_state=0,
    )
    trained.fit([a, b], [a @ w + b, a @ v])
    np.testing.assert_allclose(trained.trained_coef_["w"], w, atol=1e-3)
    np.testing.assert_allclose(trained.trained_coef_["v"], v, atol=1e-3)
    assert [o.shape for o in trained.predict([a, b])] == [(40, 1), (40, 2)]


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_results_come_in_the_kind_that_went_in(kind):
    x, y = table()
    if kind == "torch":
        x, y = torch.from_numpy(x), torch.from_numpy(y)
    trained = partial().fit(x, y)
    wanted = torch.Tensor if kind == "torch" else np.ndarray
    assert all(isinstance(v, wanted) for v in [*trained.get_state(), trained.predict(x), trained.losses(x, y)])
