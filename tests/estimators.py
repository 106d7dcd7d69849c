"""What the tests of estimators share: a table, labels, and silence about convergence."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def table(rows: int = 80, features: int = 5, dtype=np.float64):
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, features)).astype(dtype)
    y = np.sin(x.sum(1)) + 0.1 * random.normal(size=rows)
    return x, y.astype(dtype)


def classes(y):
    return np.array(["low", "middle", "high"])[np.digitize(y, [-0.3, 0.4])]


def same(a, b):
    return all(np.array_equal(v, w) for v, w in zip(a.coefs_ + a.intercepts_, b.coefs_ + b.intercepts_, strict=True))
