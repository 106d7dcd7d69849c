"""Rows: negative log-likelihood and softmax cross-entropy."""

import numpy as np
import torch
import torch.nn.functional as tf
from oracle import Case, R, U

DTYPES = ("float64", "float32")


def nll(reduction="mean", ignore=-100):
    return lambda x, y, w=None: tf.nll_loss(x, y.long(), w, reduction=reduction, ignore_index=ignore)


def cross_entropy(reduction="mean", ignore=-100, log_prob=False):
    def run(x, y, w=None):
        p = torch.log_softmax(x, 1)
        loss = tf.nll_loss(p, y.long(), w, reduction=reduction, ignore_index=ignore)
        return (loss, p) if log_prob else loss

    return run


def weighted_by_hand(reduction):
    """The same with a gradient of the class weights, which torch's own loss does not have."""

    def run(x, y, w):
        each = -torch.log_softmax(x, 1).gather(1, y.long().unsqueeze(1)).squeeze(1) * w[y.long()]
        return {"none": each, "sum": each.sum(), "mean": each.sum() / w[y.long()].sum()}[reduction]

    return run


Y = np.array([0, 2, 1, 2, 3])
IGNORED = np.array([0, -1, 1, 2, -1])
Y2 = np.array([[0, 3, 1], [2, 2, 1]])

CASES = [
    case
    for op, fn in (("SoftmaxCrossEntropyLoss", cross_entropy), ("NegativeLogLikelihoodLoss", nll))
    for case in (
        Case(op, [R(5, 4), Y], torch=fn(), dtypes=DTYPES),
        Case(op, [R(5, 4), Y], {"reduction": "none"}, opset=12, torch=fn("none"), dtypes=DTYPES),
        Case(op, [R(5, 4), Y.astype(np.int32)], {"reduction": "sum"}, torch=fn("sum"), dtypes=DTYPES),
        Case(op, [R(5, 4), IGNORED], {"ignore_index": -1}, torch=fn(ignore=-1), dtypes=DTYPES),
        Case(op, [R(5, 4), IGNORED], {"ignore_index": -1, "reduction": "none"}, torch=fn("none", -1), dtypes=DTYPES),
        Case(op, [R(5, 4), IGNORED, U(0.5, 2.0, 4)], {"ignore_index": -1}, wrt=[0], torch=fn(ignore=-1), dtypes=DTYPES),
        Case(op, [R(5, 4), Y, U(0.5, 2.0, 4)], {"reduction": "none"}, wrt=[0], torch=fn("none"), dtypes=DTYPES),
        Case(op, [R(2, 4, 3), Y2], torch=fn(), dtypes=DTYPES),
        Case(op, [R(2, 4, 3), Y2, U(0.5, 2.0, 4)], {"reduction": "sum"}, wrt=[0], torch=fn("sum"), dtypes=DTYPES),
        Case(op, [R(2, 4, 1, 3), Y2[:, None]], {"reduction": "none"}, torch=fn("none"), dtypes=DTYPES),
        Case(op, [R(5, 4), Y[:4]], dynamic=False, error="labels do not fit the operand"),
        Case(op, [R(5, 4), Y], {"reduction": "average"}, dynamic=False, error="reduction is unknown"),
    )
] + [
    Case("SoftmaxCrossEntropyLoss", [R(5, 4), Y], outputs=2, torch=cross_entropy(log_prob=True), dtypes=DTYPES),
    Case(
        "SoftmaxCrossEntropyLoss",
        [R(2, 4, 3), Y2],
        {"reduction": "none"},
        outputs=2,
        torch=cross_entropy("none", log_prob=True),
        dtypes=DTYPES,
    ),
    *[
        Case(
            "SoftmaxCrossEntropyLoss",
            [R(5, 4), Y, U(0.5, 2.0, 4)],
            {"reduction": r},
            wrt=[0, 2],
            torch=weighted_by_hand(r),
            dtypes=DTYPES,
        )
        for r in ("none", "sum", "mean")
    ],
]
