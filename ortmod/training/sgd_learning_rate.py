"""Learning rates: how weights are updated (a pointwise graph), and how the rate changes (a graph of a few numbers).

With g the gradient, a the rate, v a state that starts at zero:

| class | update |
|---|---|
| LearningRateSGD | w <- w - a g |
| LearningRateSGDNesterov, "onnxcustom" and "sklearn" | v <- m v - a g; w <- w + v, or with nesterov w <- w + m v - a g |
| LearningRateSGDNesterov, "torch" | v <- m v + g; w <- w - a v, or with nesterov w <- w - a (g + m v) |
| LearningRateAdamW, "torch" | Adam with decoupled decay: w <- w - a decay w - a m^ / (sqrt(v^) + eps), as torch.optim.AdamW |
| LearningRateAdamW, "sklearn" | the same with eps inside the correction: a m sqrt(1 - beta2^t) / (1 - beta1^t) / (sqrt(v) + eps) |

Schedules, with t from 0 counting epochs, updates or samples by `period`:

| learning_rate | rate |
|---|---|
| constant | eta0 |
| invscaling | eta0 / (t + 1)^power_t |
| optimal | eta0 t0 / (t0 + t), t0 = 1 / (alpha eta), eta = s / max(1, 2 (1 + s)), s = alpha^(-1/4) |
| optimal, "sklearn" | 1 / (alpha (t0 + t)), t0 = 1 / (alpha s) |
| adaptive | eta0 / 5^k, k how often the loss stopped falling (for n_iter_no_change epochs by tol) |
| linear | up to eta0 in `warmup`, then down to eta_min at `total` (None: stays) |
| cosine | up to eta0 in `warmup`, then eta_min + (eta0 - eta_min) (1 + cos(pi t')) / 2, t' from 0 to 1 at `total` |

scikit-learn's MLP counts samples (`period="samples"`, power_t=0.5), its SGDRegressor updates of one row (`period="update"`).
onnxcustom uses
eta0 for two epochs before it starts to fall.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx

from ortmod.training import graphs
from ortmod.training._params import Parameters, checked_choice, checked_number, is_number
from ortmod.training._pieces import as_model, built, rates
from ortmod.training.excs import ParameterError

SCHEDULES = ("constant", "optimal", "invscaling", "adaptive", "linear", "cosine")
PERIODS = ("epoch", "update", "samples")
CONVENTIONS = ("onnxcustom", "sklearn", "torch")


class BaseLearningRate(Parameters):
    """How weights are updated and at which rate. Subclass it with `build_onnx_function(...)` that returns a graph
    (weight, gradient, learning_rate[, step][, states...]) -> (weight_new[, states_new...]): the first four by these names,
    `step` a double that
    counts updates from 1, every other input a state of the weight's shape that starts at zero, in the order of the outputs.
    `build_schedule()` returns the graph of the rate; it may read `epoch`, `update`, `samples`, `plateaus`, all double."""

    eta0: float = 0.01

    def build_onnx_function(self, opset: int | None = None, dtype: Any = np.float32) -> onnx.ModelProto:
        raise NotImplementedError(f"{type(self).__name__} must define build_onnx_function")

    def build_schedule(self) -> onnx.ModelProto:
        """The graph of the rate; constant unless a subclass says otherwise."""
        return graphs.graph("constant", eta0=float(self.eta0))

    def build_onnx_functions(self) -> dict[str, Any]:
        return {"update": built(self), "schedule": as_model(self.build_schedule(), self)}

    @property
    def needs_grad(self) -> bool:
        """The update keeps a state (a velocity)."""
        names = {value.name for value in built(self).graph.input}
        return bool(names - {"weight", "gradient", "learning_rate", "step"})

    def states_meaning(self) -> str:
        """Updates whose states mean the same return the same: a fit with a warm start keeps them then."""
        return type(self).__qualname__

    def init_learning_rate(self) -> "BaseLearningRate":
        self.value_ = rates(self, 1)[0]
        return self

    def update_learning_rate(self, t: int) -> "BaseLearningRate":
        """`value` becomes the rate after t + 1 periods."""
        self.value_ = rates(self, t + 2)[-1]
        return self

    @property
    def value(self) -> float:
        if not hasattr(self, "value_"):
            self.init_learning_rate()
        return self.value_

    def loop(self, n: int = 1000) -> Iterator[float]:
        """The rates of the first n periods, as `fit` uses them."""
        yield from rates(self, n)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if not key.endswith("_")}

    @staticmethod
    def select(class_name: Any, **kwargs: Any) -> "BaseLearningRate":
        """A learning rate by instance, class name, alias, or a number (plain SGD at that rate)."""
        if isinstance(class_name, BaseLearningRate):
            return class_name
        if is_number(class_name):
            return LearningRateSGD(eta0=float(class_name), **kwargs)
        for cls, names in _ALIASES.items():
            if isinstance(class_name, str | type) and class_name in (*names, cls, cls.__name__):
                return cls(**kwargs)
        known = ", ".join(repr(n) for names in _ALIASES.values() for n in names)
        raise ParameterError(f"[train] learning_rate: got {class_name!r}, expected a BaseLearningRate, a number or one of {known}")


class _Scheduled(BaseLearningRate):
    learning_rate: str
    period: str
    convention: str
    alpha: float = 1e-4
    power_t: float = 0.25
    warmup: float = 0
    total: float | None = None
    eta_min: float = 0.0

    def _check(self) -> None:
        checked_choice("learning_rate", self.learning_rate, SCHEDULES)
        checked_choice("period", self.period, PERIODS)
        checked_choice("convention", self.convention, CONVENTIONS)
        checked_number("eta0", self.eta0)
        checked_number("alpha", self.alpha, 1e-30 if self.learning_rate == "optimal" else 0.0)
        checked_number("power_t", self.power_t, -10.0)
        checked_number("warmup", self.warmup)
        checked_number("eta_min", self.eta_min)
        if self.learning_rate == "cosine" and self.total is None:
            raise ParameterError(f"[train] total: got None, expected the number of {self.period}s that the cosine takes")
        if self.total is not None:
            checked_number("total", self.total, self.warmup)

    def build_schedule(self) -> onnx.ModelProto:
        self._check()
        values: dict[str, Any] = {"eta0": float(self.eta0), "period": self.period}
        if self.learning_rate == "invscaling":
            values["power_t"] = float(self.power_t)
        elif self.learning_rate == "optimal":
            s = math.sqrt(1.0 / math.sqrt(self.alpha))
            eta = s if self.convention == "sklearn" else s / max(1.0, 2 * (1 + s))
            t0 = 1.0 / (eta * self.alpha)
            values.update(t0=t0, top=1.0 / self.alpha if self.convention == "sklearn" else self.eta0 * t0)
        elif self.learning_rate in ("linear", "cosine"):
            total = 1e300 if self.total is None else self.total
            span = max(float(total - self.warmup), 1e-300)
            values.update(warmup=float(self.warmup), total=float(total), span=span, eta_min=float(self.eta_min))
        return graphs.graph(self.learning_rate, **values)


class LearningRateSGD(_Scheduled):
    """Plain gradient descent; see the module for schedules and periods."""

    def __init__(
        self,
        eta0: float = 0.01,
        alpha: float = 0.0001,
        power_t: float = 0.25,
        learning_rate: str = "invscaling",
        period: str = "epoch",
        warmup: float = 0,
        total: float | None = None,
        eta_min: float = 0.0,
        convention: str = "onnxcustom",
    ) -> None:
        self.eta0 = eta0
        self.alpha = alpha
        self.power_t = power_t
        self.learning_rate = learning_rate
        self.period = period
        self.warmup = warmup
        self.total = total
        self.eta_min = eta_min
        self.convention = convention
        self._check()

    def build_onnx_function(self, opset: int | None = None, dtype: Any = np.float32) -> onnx.ModelProto:
        return graphs.graph("sgd", name="sgd", dtype=dtype, opset=opset)


class LearningRateSGDNesterov(_Scheduled):
    """Gradient descent with momentum, of Nesterov's kind or the classical one."""

    def __init__(
        self,
        eta0: float = 0.01,
        alpha: float = 0.0001,
        power_t: float = 0.25,
        learning_rate: str = "invscaling",
        momentum: float = 0.9,
        nesterov: bool = True,
        period: str = "epoch",
        warmup: float = 0,
        total: float | None = None,
        eta_min: float = 0.0,
        convention: str = "onnxcustom",
    ) -> None:
        self.eta0 = eta0
        self.alpha = alpha
        self.power_t = power_t
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.nesterov = nesterov
        self.period = period
        self.warmup = warmup
        self.total = total
        self.eta_min = eta_min
        self.convention = convention
        self._check()

    def _check(self) -> None:
        super()._check()
        checked_number("momentum", self.momentum, 0.0, 1.0)

    def states_meaning(self) -> str:
        return super().states_meaning() + "/torch" * (self.convention == "torch")

    def build_onnx_function(self, opset: int | None = None, dtype: Any = np.float32) -> onnx.ModelProto:
        name = ("nesterov" if self.nesterov else "momentum") + "_torch" * (self.convention == "torch")
        return graphs.graph(name, name=name, momentum=float(self.momentum), dtype=dtype, opset=opset)


class LearningRateAdamW(_Scheduled):
    """Adam with decoupled weight decay; `weight_decay=0` is Adam."""

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        learning_rate: str = "constant",
        alpha: float = 0.0001,
        power_t: float = 0.25,
        period: str = "epoch",
        warmup: float = 0,
        total: float | None = None,
        eta_min: float = 0.0,
        convention: str = "torch",
    ) -> None:
        self.lr = lr
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay
        self.learning_rate = learning_rate
        self.alpha = alpha
        self.power_t = power_t
        self.period = period
        self.warmup = warmup
        self.total = total
        self.eta_min = eta_min
        self.convention = convention
        self._check()

    @property
    def eta0(self) -> float:  # type: ignore[override]
        return self.lr

    def _check(self) -> None:
        super()._check()
        for i, beta in enumerate(self.betas):
            checked_number(f"betas[{i}]", beta, 0.0, 1.0)
        checked_number("eps", self.eps)
        checked_number("weight_decay", self.weight_decay)

    def build_onnx_function(self, opset: int | None = None, dtype: Any = np.float32) -> onnx.ModelProto:
        beta1, beta2 = self.betas
        form = "adamw_sklearn" if self.convention == "sklearn" else "adamw_torch"
        return graphs.graph(
            "adamw",
            name="adamw",
            beta1=float(beta1),
            beta2=float(beta2),
            take1=1.0 - beta1,
            take2=1.0 - beta2,
            eps=float(self.eps),
            weight_decay=float(self.weight_decay),
            denominator=graphs.text(form),
            dtype=dtype,
            opset=opset,
        )


_ALIASES: dict[Any, tuple[str, ...]] = {
    LearningRateSGD: ("SGD",),
    LearningRateSGDNesterov: ("SGDNesterov", "Nesterov"),
    LearningRateAdamW: ("AdamW",),
}
