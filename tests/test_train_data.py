"""Data, labels and arguments that do not fit are refused before a fit; those of other types are the same."""

import numpy as np
import pytest
import torch
from test_train_use import X, Y, partial
from train_models import linear

from ortmod._errors import OrtmodError, ShapeError
from ortmod.training.excs import DataError, ParameterError
from ortmod.training.sgd_learning_loss import (
    CrossEntropyLearningLoss,
    NegLogLearningLoss,
    SquareLearningLoss,
)
from ortmod.training.sgd_learning_rate import LearningRateSGD, LearningRateSGDNesterov


@pytest.mark.parametrize(("loss", "columns"), [("log", 1), ("cross_entropy", 2)])
@pytest.mark.parametrize("labels", [[-1, 1], [1, 2], [0, -100], [0, 7]])
def test_labels_that_are_no_classes_are_refused_and_leave_the_weights(loss, columns, labels):
    y = np.resize(labels, 50)
    trained = partial(linear(3, columns), learning_loss=loss, warm_start=True).fit(X, y % 2)
    before = trained.get_state()
    for call in (trained.fit, trained.losses):
        with pytest.raises(DataError, match=rf'"label": got labels from {min(labels)} to {max(labels)}, expected 0 to 1'):
            call(X, y)
    with pytest.raises(DataError, match="expected 0 to 1"):
        trained.learning_loss.loss_gradient(y, np.zeros((50, columns), np.float32))
    for old, new in zip(before, trained.get_state(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.int32, np.uint64, np.float32, np.float64])
def test_labels_of_other_types_and_shapes_are_the_same_labels(dtype):
    y = (Y[:, 0] > 1).astype(np.int64)
    expected = partial(linear(3, 2), learning_loss="cross_entropy").fit(X, y).train_losses_
    for labels in (y.astype(dtype), y.astype(dtype)[:, None]):
        assert partial(linear(3, 2), learning_loss="cross_entropy").fit(X, labels).train_losses_ == expected
    binary = partial(learning_loss="log").fit(X, y[:, None]).train_losses_
    assert partial(learning_loss="log").fit(X, y.astype(dtype)).train_losses_ == binary
    score = X[:, :1]
    wanted = NegLogLearningLoss().loss_gradient(y[:, None], score)
    for got, one in zip(NegLogLearningLoss().loss_gradient(y.astype(dtype), score), wanted, strict=True):
        np.testing.assert_array_equal(got, one)


def test_labels_that_are_not_whole_are_refused_outside_of_a_fit_too():
    with pytest.raises(TypeError, match="not whole"):
        CrossEntropyLearningLoss().loss_gradient(np.full(50, 0.5), X[:, :2])


def test_weights_that_are_not_finite_are_refused_outside_of_a_fit_too():
    loss = SquareLearningLoss()
    for call in (loss.loss_gradient, loss.loss_scores):
        with pytest.raises(DataError, match='"weight"'):
            call(Y, Y, np.full(50, np.nan))
    np.testing.assert_allclose(loss.loss_scores(Y, Y + 1, np.arange(50.0)[:, None])[:, 0], np.arange(50) / 2, rtol=1e-4)


def test_classes_in_several_columns_are_refused_with_the_expected_shape():
    with pytest.raises(ShapeError, match=r"got shape \[50, 2\], expected \[50\]"):
        partial(linear(3, 2), learning_loss="cross_entropy").fit(X, np.eye(2)[np.arange(50) % 2])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (X.astype(np.float64) * 1e300, "beyond torch.float32"),
        (np.ma.masked_array(X, mask=X > 1), "masked"),
        (torch.from_numpy(X).to(torch.complex64), "real numbers"),
        (torch.from_numpy(X).to_sparse(), "dense"),
        (torch.empty(50, 3, device="meta"), "meta"),
    ],
)
def test_data_that_would_lose_something_is_refused(data, says):
    trained = partial().fit(X, Y)
    for call in (lambda: partial().fit(data, Y), lambda: trained.predict(data)):
        with pytest.raises((DataError, TypeError), match=rf'"X".*{says}|{says}') as info:
            call()
        assert isinstance(info.value, OrtmodError)


def test_long_doubles_are_taken():
    expected = partial().fit(X, Y).train_losses_
    assert partial().fit(X.astype(np.longdouble), Y.astype(np.longdouble)).train_losses_ == expected


@pytest.mark.parametrize(("y", "weight"), [(3.0, None), (Y, 2.0)])
def test_single_numbers_are_no_columns(y, weight):
    with pytest.raises(ShapeError):
        partial().fit(X, y, weight)


# Arguments.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("clip_norm", -1),
        ("clip_norm", float("nan")),
        ("clip_value", "a"),
        ("tol", "x"),
        ("n_iter_no_change", -1),
        ("random_state", "a"),
        ("random_state", 1.5),
        ("batch_size", 2**70),
        ("validation_every", float("nan")),
        ("validation_every", float("inf")),
        ("callback", 3),
        ("master_dtype", torch.int32),
        ("verbose", "x"),
        ("weights_to_train", [3]),
        ("learning_loss", []),
        ("learning_rate", float("inf")),
    ],
)
def test_arguments_that_do_not_fit_are_refused_at_once(name, value):
    with pytest.raises((ParameterError, TypeError), match=r"\[train\]") as info:
        partial(**{name: value})
    assert isinstance(info.value, OrtmodError)
    trained = partial()
    before = trained.get_params()
    with pytest.raises(OrtmodError):
        trained.set_params(max_iter=7, **{name: value})
    assert trained.get_params() == before


def test_parameters_change_all_or_none_also_inside():
    trained = partial(learning_rate=LearningRateSGD(0.25))
    for wrong in ({"clip_norm": -1}, {"learning_loss__convention": "other"}, {"other": 1}):
        with pytest.raises(ParameterError):
            trained.set_params(learning_rate__eta0=0.5, max_iter=9, **wrong)
        assert (trained.learning_rate.eta0, trained.max_iter) == (0.25, 3)
    assert trained.set_params(learning_rate__eta0=0.5, max_iter=9).learning_rate.eta0 == 0.5


def test_numbers_and_types_of_numpy_are_taken():
    expected = partial(learning_rate=0.125, max_iter=2).fit(X, Y).train_losses_
    got = partial(learning_rate=np.float32(0.125), max_iter=np.int64(2), batch_size=np.int32(10), random_state=np.int64(0))
    assert got.fit(X, Y).train_losses_ == expected
    assert LearningRateSGDNesterov(np.float32(0.5), momentum=np.float64(0.5)).value == 0.5
    for dtype in (np.float32, "float32", torch.float32):
        partial(master_dtype=dtype).fit(X, Y)
