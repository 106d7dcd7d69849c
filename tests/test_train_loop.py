"""The loop as a user meets it: interrupts, callbacks, progress, modes of the model, other threads, files."""

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import onnx
import pytest
import torch
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.utils.validation import check_is_fitted
from train_models import linear, mlp, with_weights

import ortmod
from ortmod.training import (
    ConvergenceError,
    ElasticLearningPenalty,
    LearningRateAdamW,
    LearningRateSGD,
    OrtDataLoader,
    OrtGradientForwardBackwardOptimizer,
    OrtGradientOptimizer,
    ProviderError,
    add_loss_output,
)


def table(rows=200, features=3):
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, features)).astype(np.float32)
    return x, np.tanh(x.sum(1)).astype(np.float32)


def optimizer(model=None, **options):
    model = mlp([3, 8, 1]) if model is None else model
    return OrtGradientForwardBackwardOptimizer(
        model, **{"max_iter": 5, "random_state": 0, "init": "model", "learning_rate": 0.05, **options}
    )


def test_ctrl_c_ends_the_fit_and_leaves_a_usable_state():
    """In a process of its own: the signal must come while the loop runs in C++."""
    code = """
        import os, signal, sys, threading, time
        sys.path.insert(0, "tests")
        import numpy as np
        from test_train_loop import optimizer, table
        x, y = table(20000)
        trained = optimizer(max_iter=10**9, warm_start=True, learning_rate=0.01)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored in the background
        threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        started = time.perf_counter()
        try:
            trained.fit(x, y)
        except KeyboardInterrupt:
            took = time.perf_counter() - started
        before = trained.get_state()[0].copy()
        trained.max_iter = 2
        trained.fit(x, y)
        print("interrupted", took < 20, np.isfinite(before).all(), not np.array_equal(before, trained.get_state()[0]))
    """
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert done.stdout.strip() == "interrupted True True True", done.stdout + done.stderr


def test_other_threads_run_during_a_fit():
    x, y = table(20000)
    ticks = []
    stop = threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    started = time.perf_counter()
    optimizer(max_iter=100).fit(x, y)
    took = time.perf_counter() - started
    stop.set()
    thread.join()
    during = [t for t in ticks if started < t < started + took]
    assert len(during) > took / 0.02


def test_the_callback_sees_loss_rate_and_gradient_norm():
    x, y = table()
    seen = []
    trained = optimizer(callback=seen.append, max_iter=3, batch_size=0)
    trained.fit(x, y)
    assert [r["epoch"] for r in seen] == [0, 1, 2] and [r["loss"] for r in seen] == trained.train_losses_
    assert all(r["gradient_norm"] > 0 and r["learning_rate"] > 0 for r in seen)
    stopped = optimizer(callback=lambda r: r["epoch"] < 1, max_iter=50).fit(x, y)
    assert stopped.n_iter_ == 2


def test_progress_is_shown(capfd):
    x, y = table()
    optimizer(verbose=2, max_iter=3).fit(x, y)
    assert "loss=" in capfd.readouterr().err


def test_early_stopping_keeps_the_best_weights():
    x, y = table()
    random = np.random.default_rng(1)
    noisy = (y + random.normal(size=len(y))).astype(np.float32)
    trained = optimizer(
        mlp([3, 64, 1]),
        early_stopping=True,
        n_iter_no_change=5,
        max_iter=2000,
        validation_every=1,
        learning_rate=LearningRateAdamW(0.03, weight_decay=0),
    )
    trained.fit(x[:40], noisy[:40], X_val=x[100:], y_val=y[100:])
    assert trained.n_iter_ < 2000
    assert trained.score(x[100:], y[100:]) == pytest.approx(-min(trained.validation_losses_), rel=1e-4)


def test_clone_and_grid_search():
    from sklearn.model_selection import ParameterGrid

    x, y = table()
    original = optimizer(learning_rate=LearningRateSGD(0.05), learning_penalty=ElasticLearningPenalty(0.0, 0.1))
    copied = clone(original)
    assert copied is not original and copied.get_params()["learning_rate"] == original.learning_rate
    scores = [
        clone(original).set_params(**p).fit(x, y).score(x, y) for p in ParameterGrid({"batch_size": [5, 50], "max_iter": [1, 10]})
    ]
    assert len({round(s, 6) for s in scores}) == 4


@pytest.mark.parametrize("full", [False, True])
def test_model_selection_of_scikit_learn_takes_the_optimizers(full):
    x, y = table(60)
    y = y.reshape(-1, 1)
    options = {"init": "model", "random_state": 0, "max_iter": 3, "learning_rate": 0.05}
    if full:
        one = OrtGradientOptimizer(add_loss_output(linear(3)), ["coef", "intercept"], **options)
    else:
        one = OrtGradientForwardBackwardOptimizer(linear(3), ["coef", "intercept"], **options)
    assert not is_regressor(one) and not is_classifier(one)
    searched = GridSearchCV(one, {"batch_size": [5, 60]}, cv=3, error_score="raise").fit(x, y)
    assert searched.best_params_ == {"batch_size": 5}
    scores = cross_val_score(one, x, y, cv=KFold(3), error_score="raise")
    by_hand = []
    for rows, rest in KFold(3).split(x):
        by_hand.append(clone(one).fit(x[rows], y[rows]).score(x[rest], y[rest]))
    np.testing.assert_array_equal(scores, by_hand)
    check_is_fitted(searched.best_estimator_)
    with pytest.raises(NotFittedError):
        check_is_fitted(clone(one))


def with_dropout(full=False):
    text = """net (float[N, 3] X) => (float[N, 1] y) {
        ratio = Constant<value = float {0.5}>()
        d = Dropout(X, ratio)
        y = MatMul(d, w)
    }"""
    model = with_weights(text, {"w": np.ones((3, 1), np.float32)})
    return add_loss_output(model) if full else model


def test_noise_in_a_graph_is_drawn_by_random_state():
    text = "net (float[N, 3] X) => (float[N, 1] y) { r = RandomNormalLike(X)  s = Add(X, r)  y = MatMul(s, w) }"
    model = with_weights(text, {"w": np.ones((3, 1), np.float32)})
    x, y = table(50)
    first, second, other = [optimizer(model, random_state=seed).fit(x, y).trained_coef_["w"] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("full", [False, True])
def test_dropout_draws_by_random_state_also_when_pickled_in_the_middle(full):
    x, y = table(50)
    y = y.reshape(-1, 1)
    kind = OrtGradientOptimizer if full else OrtGradientForwardBackwardOptimizer
    made = [
        kind(with_dropout(full), ["w"], max_iter=n, init="model", random_state=s, learning_rate=LearningRateAdamW(0.1))
        for n, s in ((6, 3), (6, 3), (6, 4), (3, 3))
    ]
    torch.manual_seed(7)
    untouched = torch.rand(1)
    torch.manual_seed(7)
    whole, again, other, half = [m.fit(x, y) for m in made]
    assert torch.equal(torch.rand(1), untouched)
    weights = whole.trained_coef_["w"]
    np.testing.assert_array_equal(again.trained_coef_["w"], weights)
    assert not np.array_equal(other.trained_coef_["w"], weights)
    torch.manual_seed(99)
    for rest in (pickle.loads(pickle.dumps(half)), half):
        rest.set_params(warm_start=True).fit(x, y)
        np.testing.assert_array_equal(rest.trained_coef_["w"], weights)


def test_batch_normalisation_and_dropout_follow_the_mode():
    text = """net (float[N, 3] X) => (float[N, 1] y) {
        n = BatchNormalization<epsilon = 1e-5, momentum = 0.9>(X, scale, bias, mean, var)
        ratio = Constant<value = float {0.5}>()
        d = Dropout(n, ratio)
        y = MatMul(d, w)
    }"""
    values = {"scale": np.ones(3), "bias": np.zeros(3), "mean": np.zeros(3), "var": np.ones(3), "w": np.ones((3, 1))}
    model = with_weights(text, {k: v.astype(np.float32) for k, v in values.items()})
    x, y = table()
    trained = optimizer(model, weights_to_train=["w", "scale", "bias"], max_iter=10)
    trained.fit(3 * x + 5, y)
    out = {i.name: onnx.numpy_helper.to_array(i) for i in trained.get_trained_onnx().graph.initializer}
    np.testing.assert_allclose(out["mean"], (3 * x + 5).mean(0), atol=0.5)
    np.testing.assert_allclose(out["var"], (3 * x + 5).var(0), rtol=0.3)
    first, second = trained.predict(3 * x + 5), trained.predict(3 * x + 5)
    np.testing.assert_array_equal(first, second)
    module = ortmod.OnnxModule(trained.get_trained_onnx()).eval()
    np.testing.assert_allclose(module(torch.from_numpy(3 * x + 5)).detach().numpy(), first, rtol=1e-4, atol=1e-5)


def test_the_first_epoch_of_a_large_table_visits_blocks_in_order():
    """Rows wider than a block of the gatherer, and more rows than one block."""
    rows, width = 300, 5000
    x = np.zeros((rows, width), np.float32)
    x[:, 0] = np.arange(rows)
    t = optimizer(linear(width), batch_size=7, max_iter=1, shuffle=True, learning_rate=1e-30).fit(
        x, np.arange(rows, dtype=np.float32)
    )
    assert t.train_losses_[0] == pytest.approx(0.5 * np.mean(np.arange(rows) ** 2.0), rel=1e-5)


def test_full_training_divides_a_sum_and_leaves_a_mean():
    x, y = table(40)
    total = add_loss_output(linear(3))
    mean = onnx.ModelProto()
    mean.CopyFrom(total)
    count = onnx.helper.make_node("Div", ["loss", "forty"], ["mean_loss"])
    mean.graph.node.append(count)
    mean.graph.initializer.append(onnx.numpy_helper.from_array(np.array(40, np.float32), "forty"))
    mean.graph.output[0].name = "mean_loss"
    common = dict(max_iter=5, batch_size=40, init="model", learning_rate=LearningRateSGD(0.05, learning_rate="constant"))
    a = OrtGradientOptimizer(total, ["coef", "intercept"], **common).fit(x, y)
    b = OrtGradientOptimizer(mean, ["coef", "intercept"], loss_output_name="mean_loss", loss_reduction="mean", **common).fit(x, y)
    np.testing.assert_allclose(a.get_state()["coef"], b.get_state()["coef"], rtol=1e-5)
    assert a.train_losses_ == pytest.approx(b.train_losses_, rel=1e-5)


def test_saved_graphs_are_models(tmp_path):
    x, y = table()
    trained = optimizer(learning_penalty="elastic").fit(x, y)
    files = trained.save_onnx_graph(tmp_path)

    def check(entry):
        if isinstance(entry, dict):
            return sum(check(v) for v in entry.values())
        onnx.checker.check_model(onnx.load(entry))
        return 1

    assert check(files) >= 6
    assert all(isinstance(v, bytes) for v in trained.learning_loss.save_onnx_graph(bytes).values())
    with pytest.raises(FileNotFoundError):
        trained.save_onnx_graph(tmp_path / "nowhere")


def test_signals_are_left_alone():
    before = signal.getsignal(signal.SIGINT)
    x, y = table()
    optimizer().fit(x, y)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", 1.5])
def test_a_device_that_is_not_there_is_named(device):
    x, y = table()
    with pytest.raises(ortmod.DeviceError, match="device: got .*, (expected|but torch)"):
        optimizer(device=device).fit(x, y)
    with pytest.raises(ProviderError, match="device: got"):
        OrtDataLoader(x, y, device=device)


def test_large_weights_live_in_memory_that_other_fits_had():
    """From 2 MB on, memory that a trainer gave back is taken by the next one."""
    x = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    y = np.tanh(x.sum(1)).astype(np.float32)

    def fitted(rate, epochs=3):
        found = optimizer(mlp([64, 9000, 1]), learning_rate=LearningRateAdamW(rate), batch_size=16, max_iter=epochs)
        return found.fit(x, y)

    def weights(found):
        return {name: value.copy() for name, value in found.trained_coef_.items()}

    first = fitted(1e-3)
    kept = first._engine_.trainer.tensors()
    values, expected = {name: t.clone() for name, t in kept.items()}, weights(first)
    del first
    fitted(1e-1)
    again = fitted(1e-3)
    for name, t in kept.items():
        assert torch.equal(t, values[name]), name
    del kept
    for name, value in weights(fitted(1e-3)).items():
        assert np.array_equal(value, expected[name]), name

    again.set_params(warm_start=True, learning_rate=LearningRateAdamW(1e30))
    with pytest.raises(ConvergenceError):
        again.fit(x, y)
    for name, value in weights(again).items():
        assert np.array_equal(value, expected[name]), name
