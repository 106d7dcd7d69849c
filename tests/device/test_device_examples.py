"""The examples that take a device."""

import pytest
import test_examples

EXAMPLES = [
    test_examples.test_linear_regression_full,
    test_examples.test_linear_regression_partial,
    test_examples.test_linear_regression_raw,
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda f: f.__name__.removeprefix("test_"))
def test_example(example, tmp_path, device):
    example(tmp_path, device.type)
