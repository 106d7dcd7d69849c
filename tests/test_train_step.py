"""Composed training steps: one graph, updated in place; its exported form on the stock runtime; the order of rows; the loop."""

import os
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
import torch
from test_steps import COUNTER

import ortmod
from ortmod import _C
from ortmod._model import load
from ortmod.training import ElasticLearningPenalty, LearningRateSGDNesterov, OrtGradientForwardBackwardOptimizer

HEAD = '<ir_version: 8, opset_import: ["" : 15]>\n'
SQUARE = """square (float[n, k] expected, float[n, k] predicted) => (float loss, float[n, k] scores) {
    shape = Shape(predicted)
    target = Reshape(expected, shape)
    d = Sub(predicted, target)
    scores = Mul(d, d)
    loss = ReduceSum<keepdims = 0>(scores)
}"""
MOMENTUM = """momentum (float[n] weight, float[n] gradient, float learning_rate, float[n] velocity)
    => (float[n] new, float[n] moved) {
    mu = Constant<value = float {0.9}>()
    kept = Mul(mu, velocity)
    moved = Add(kept, gradient)
    u = Mul(learning_rate, moved)
    new = Sub(weight, u)
}"""
SCALED = """scaled (float[n] weight, float[n] gradient, float learning_rate) => (float[n] new) {
    squares = Mul(gradient, gradient)
    sum = ReduceSum<keepdims = 0>(squares)
    norm = Sqrt(sum)
    direction = Div(gradient, norm)
    u = Mul(learning_rate, direction)
    new = Sub(weight, u)
}"""
RATE = "constant () => (double rate) { rate = Constant<value = double {0.05}>() }"
FALLING = """falling (double update) => (double rate) {
    one = Constant<value = double {1.0}>()
    n = Add(update, one)
    top = Constant<value = double {0.1}>()
    rate = Div(top, n)
}"""


def piece(text: str) -> _C.Model:
    return load(onnx.parser.parse_model(HEAD + text))


def network(hidden: int = 4) -> onnx.ModelProto:
    text = """net (float[N, 3] X) => (float[N, 1] y) {
        h = MatMul(X, w1)
        hb = Add(h, b1)
        a = Tanh(hb)
        z = MatMul(a, w2)
        y = Add(z, b2)
    }"""
    model = onnx.parser.parse_model(HEAD + text)
    random = np.random.default_rng(0)
    for name, shape in (("w1", (3, hidden)), ("b1", (hidden,)), ("w2", (hidden, 1)), ("b2", (1,))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name))
    return model


def data(rows: int = 50) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 3, generator=g)
    return [x, torch.sin(x.sum(1, keepdim=True))]


WEIGHTS = ["w2", "b1", "w1", "b2"]


def trainer(update: str = MOMENTUM, rate: str = RATE, **options) -> _C.Trainer:
    return _C.Trainer(load(network()), WEIGHTS, piece(update), piece(rate), losses=[(piece(SQUARE), "y")], **options)


def options(**values) -> _C.FitOptions:
    r = _C.FitOptions()
    for key, value in {"batch": 10, "shuffle": False, **values}.items():
        setattr(r, key, value)
    return r


def torch_weights(epochs: int, rows: int = 50, batch: int = 10, momentum: float = 0.9) -> dict[str, torch.Tensor]:
    model = ortmod.OnnxModule(network(), trainable=WEIGHTS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=momentum)
    x, y = data(rows)
    for _ in range(epochs):
        for i in range(0, rows, batch):
            optimizer.zero_grad()
            ((model(x[i : i + batch]) - y[i : i + batch]) ** 2).mean().backward()
            optimizer.step()
    return {name: p.detach() for name, p in model.named_parameters()}


@pytest.mark.parametrize("rows, batch", [(50, 10), (47, 10), (7, 10)])
def test_steps_equal_torch_with_a_short_last_batch(rows, batch):
    t = trainer()
    t.fit(data(rows), [], options(epochs=5, batch=batch))
    for name, expected in torch_weights(5, rows, batch).items():
        torch.testing.assert_close(t.weight(name), expected, rtol=1e-5, atol=1e-6)


def test_the_update_is_one_fused_step_over_all_weights_and_copies_nothing():
    t = trainer()
    assert t.flat
    t.fit(data(), [], options())
    names = [name for step, _ in t.steps for name in step.split(" + ")]
    assert not any(aten for _, aten in t.steps), t.steps
    assert "copy" not in names and "ortmod::Pack" not in names and "ortmod::Unpack" not in names, names
    assert names[-1] == "ortmod::Fused"


def test_an_update_that_is_not_pointwise_is_applied_weight_by_weight():
    t = trainer(SCALED)
    assert not t.flat
    start = {name: t.weight(name).clone() for name in WEIGHTS}
    x, y = data()
    t.fit([x, y], [], options(batch=0))
    model = ortmod.OnnxModule(network(), trainable=WEIGHTS)
    ((model(x) - y) ** 2).mean().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(t.weight(name), start[name] - 0.05 * p.grad / p.grad.norm(), rtol=1e-5, atol=1e-6)


def test_the_composed_graph_runs_on_the_stock_runtime():
    t = trainer()
    before = {name: value.clone() for name, value in t.tensors().items()}
    session = onnxruntime.InferenceSession(t.graph.expanded().to_bytes())
    x, y = data(10)
    rest = {"parameters": before["parameters"], "velocity": before["velocity"], "learning_rate": 0.05, "inverse_rows": 0.1}
    feeds = {"X": x.numpy(), "label": y.numpy()} | {k: np.asarray(v, dtype=np.float32) for k, v in rest.items()}
    loss, weights, velocity = session.run(None, feeds)
    assert t.step([x, y], 0.05) == pytest.approx(float(loss) / 10, rel=1e-6)
    after = t.tensors()
    np.testing.assert_allclose(after["parameters"], weights, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after["velocity"], velocity, rtol=1e-5, atol=1e-6)


def test_accumulated_batches_equal_one_large_batch():
    small, large = trainer(), trainer()
    small.fit(data(), [], options(epochs=3, batch=5, accumulate=5))
    large.fit(data(), [], options(epochs=3, batch=25))
    assert small.progress["updates"] == large.progress["updates"] == 6
    for name in WEIGHTS:
        torch.testing.assert_close(small.weight(name), large.weight(name), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("batch", [4, 7])
@pytest.mark.parametrize("penalty", [None, ElasticLearningPenalty(0.3, 2.0), ElasticLearningPenalty(0.1, 0.2, convention="torch")])
def test_accumulated_batches_count_by_their_rows(batch, weighted, penalty):
    """A last batch of fewer rows, rows with weights, penalties: the update is that of all rows at once, and so is the loss."""
    x, y = np.random.default_rng(0).normal(size=(18, 3)).astype(np.float32), np.arange(18, dtype=np.float32)
    weights = np.random.default_rng(1).uniform(0.1, 3.0, 18).astype(np.float32) if weighted else None
    found = []
    for size, accumulate in ((batch, -(-18 // batch)), (18, 1)):
        trainer = OrtGradientForwardBackwardOptimizer(
            network(),
            learning_rate=LearningRateSGDNesterov(0.01),
            learning_penalty=penalty,
            batch_size=size,
            accumulate=accumulate,
            max_iter=5,
            init="model",
        )
        trainer.shuffle = False
        found.append([*trainer.fit(x, y, weights).get_state(), np.array(trainer.train_losses_)])
    for small, large in zip(*found, strict=True):
        np.testing.assert_allclose(small, large, rtol=2e-5, atol=1e-6)


def test_each_row_comes_once_an_epoch_in_another_order():
    """A model that is its weight, a loss that adds the labels, an update that records: the order of the rows can be read off."""
    model = load(onnx.parser.parse_model(HEAD + "m (float[N, 1] X) => (float[N, 1] y) <float[1] w = {0}> { y = Add(X, w) }"))
    linear = piece("""labels (float[n, k] expected, float[n, k] predicted) => (float loss) {
        p = Mul(expected, predicted)
        loss = ReduceSum<keepdims = 0>(p)
    }""")
    record = piece("""record (float[n] weight, float[n] gradient, float learning_rate) => (float[n] new) {
        ten = Constant<value = float {10.0}>()
        w = Mul(weight, ten)
        new = Add(w, gradient)
    }""")
    t = _C.Trainer(model, ["w"], record, piece(RATE), losses=[(linear, "y")])
    columns = [torch.zeros(6, 1), torch.arange(1.0, 7.0).reshape(6, 1)]
    orders = []
    for _ in range(4):
        t.set_weight("w", torch.zeros(1))
        t.fit(columns, [], options(batch=1, shuffle=True))
        orders.append(str(round(t.weight("w").item())))
    assert all(sorted(order) == list("123456") for order in orders), orders
    assert len(set(orders)) > 1


def test_a_resumed_fit_goes_the_same_way():
    whole, first, second = trainer(rate=FALLING), trainer(rate=FALLING), trainer(rate=FALLING)
    for t in (whole, first):
        t.progress = {"seed": 7}
    whole.fit(data(), [], options(epochs=6, shuffle=True, batch=8))
    first.fit(data(), [], options(epochs=2, shuffle=True, batch=8))
    for name, value in first.tensors().items():
        second.tensors()[name].copy_(value)
    second.progress = first.progress
    second.fit(data(), [], options(epochs=4, shuffle=True, batch=8))
    for name, value in whole.tensors().items():
        assert torch.equal(value, second.tensors()[name]), name


def test_a_schedule_that_reads_updates_changes_the_rate_at_each_step():
    slide = "slide (float[n] weight, float[n] gradient, float learning_rate) => (float[n] new) { new = Sub(weight, learning_rate) }"
    t = trainer(slide, FALLING)
    start = t.weight("b2").clone()
    t.fit(data(40), [], options(batch=10))
    torch.testing.assert_close(t.weight("b2"), start - 0.1 * (1 + 1 / 2 + 1 / 3 + 1 / 4))


def test_a_diverging_fit_leaves_the_weights_of_the_last_good_epoch():
    t = trainer(rate="large () => (double rate) { rate = Constant<value = double {1e30}>() }")
    start = {name: value.clone() for name, value in t.tensors().items()}
    _, stop, _ = t.fit(data(), [], options(epochs=3))
    assert stop == "diverged"
    for name, value in t.tensors().items():
        assert torch.equal(value, start[name]), name


def test_clipping_and_the_norm_of_the_gradient():
    x, y = data()
    plain = "plain (float[n] weight, float[n] gradient, float learning_rate) => (float[n] new) { new = Sub(weight, gradient) }"
    t = trainer(plain, clip_norm=0.01, report_norm=True)
    before = t.tensors()["parameters"].clone()
    reports, _, _ = t.fit([x, y], [], options(batch=0))
    moved = before - t.tensors()["parameters"]
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-4)
    model = ortmod.OnnxModule(network(), trainable=WEIGHTS)
    ((model(x) - y) ** 2).mean().backward()
    assert reports[0]["gradient_norm"] == pytest.approx(
        torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item(), rel=1e-5
    )
    t = trainer(plain, clip_value=1e-3)
    before = t.tensors()["parameters"].clone()
    t.fit([x, y], [], options(batch=0))
    assert (before - t.tensors()["parameters"]).abs().max().item() == pytest.approx(1e-3, rel=1e-3)


def test_callbacks_stop_and_their_errors_pass():
    t = trainer()
    reports, stop, _ = t.fit(data(), [], options(epochs=9), lambda report: report["epoch"] < 2)
    assert stop == "callback" and len(reports) == 3

    def failing(report):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        t.fit(data(), [], options(epochs=9), failing)


def test_no_progress_ends_the_fit_and_the_best_epoch_is_kept():
    t = trainer(rate="high () => (double rate) { rate = Constant<value = double {0.6}>() }")
    reports, stop, best = t.fit(data(), data(), options(epochs=100, patience=4, watch_validation=True, keep_best=True))
    assert stop == "patience" and len(reports) < 100
    assert reports[best]["validation_loss"] == min(r["validation_loss"] for r in reports)
    assert t.loss(data())[0] == pytest.approx(reports[best]["validation_loss"], rel=1e-6)


@pytest.mark.parametrize(
    "change, error, says",
    [
        ({"weights": ["w1", "nothing"]}, ortmod.ModelError, 'got "nothing", expected one of "w1", "b1", "w2", "b2"'),
        ({"weights": []}, ortmod.GradientError, "nothing to train"),
        ({"weights": ["w1", "w1"]}, ortmod.ModelError, "named twice"),
        ({"update": piece("u (float[n] w, float[n] g) => (float[n] r) { r = Sub(w, g) }")}, ortmod.ModelError, "learning rate"),
        ({"losses": [(piece("l (float[n, k] p) => (float r) { r = ReduceSum(p) }"), "y")]}, ortmod.ModelError, "another signature"),
        ({"losses": [(piece(SQUARE), "none")]}, ortmod.ModelError, 'no output "none"'),
        ({"schedule": piece("s (double hour) => (double r) { r = Identity(hour) }")}, ortmod.ModelError, "hour"),
    ],
)
def test_wrong_parts_are_refused_in_words(change, error, says):
    parts = {
        "model": load(network()),
        "weights": WEIGHTS,
        "update": piece(MOMENTUM),
        "schedule": piece(RATE),
        "losses": [(piece(SQUARE), "y")],
    }
    with pytest.raises(error, match=says):
        _C.Trainer(**{**parts, **change})


@pytest.mark.parametrize(
    "columns, error, says",
    [
        ([torch.zeros(5, 4), torch.zeros(5, 1)], ortmod.ShapeError, 'wrong shape of "X"'),
        ([torch.zeros(5, 3), torch.zeros(4, 1)], ortmod.ShapeError, "another number of rows"),
        ([torch.zeros(5, 3, dtype=torch.float64), torch.zeros(5, 1)], ortmod.DTypeError, "element type"),
        ([torch.zeros(5, 3)], ortmod.ShapeError, "columns: got 1, expected 2"),
        ([torch.zeros(0, 3), torch.zeros(0, 1)], ortmod.ShapeError, "no rows"),
    ],
)
def test_wrong_data_is_refused_in_words(columns, error, says):
    t = trainer()
    before = t.tensors()["parameters"].clone()
    with pytest.raises(error, match=says):
        t.fit(columns, [], options())
    assert torch.equal(before, t.tensors()["parameters"])


PROBE = """
import ctypes, sys
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from test_train_step import FALLING, data, options, trainer
count = ctypes.CDLL(None).allocations
count.restype = ctypes.c_long
t = trainer(rate=FALLING)
columns = data(5003)
t.fit(columns, [], options(batch=5, shuffle=True))
seen = []
for epochs in (1, 11):
    before = count()
    t.fit(columns, [], options(epochs=epochs, batch=5, shuffle=True))
    seen.append(count() - before)
print((seen[1] - seen[0]) / 10)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts by glibc's malloc")
def test_an_epoch_of_a_thousand_steps_allocates_a_few_times(tmp_path):
    """With a rate that changes at each step and a short last batch; what is allocated is the epoch's: its report and snapshot."""
    source, library = tmp_path / "count.c", tmp_path / "count.so"
    source.write_text(COUNTER)
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, source], check=True)
    command = [sys.executable, "-c", PROBE, str(Path(__file__).parent)]
    done = subprocess.run(command, env=dict(os.environ, LD_PRELOAD=str(library)), capture_output=True, text=True, check=True)
    assert float(done.stdout) < 60


def test_calls_of_several_threads_wait_for_each_other():
    t = trainer()
    columns = data()
    threads = [threading.Thread(target=lambda: t.fit(columns, [], options(epochs=200))) for _ in range(3)]
    threads.append(threading.Thread(target=lambda: [t.loss(columns) for _ in range(50)]))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = trainer()
    whole.fit(columns, [], options(epochs=600))
    for name in WEIGHTS:
        assert torch.equal(t.weight(name), whole.weight(name)), name


def test_a_callback_may_ask_its_trainer():
    t = trainer()
    seen = []
    t.fit(data(), [], options(epochs=3), lambda report: seen.append(t.loss(data())[0]))
    assert len(seen) == 3 and seen[2] == pytest.approx(t.loss(data())[0])
