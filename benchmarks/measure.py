"""Times several contenders in turn, so that what the machine does meanwhile falls on all of them alike."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Microseconds per call: the median of the repetitions, and the first contender's time as a multiple of it."""

    microseconds: float
    spread: float
    ratio: float


def calls_for(function: Callable[[], object], seconds: float) -> int:
    """How many calls fill `seconds`."""
    calls = 1
    while True:
        begin = time.perf_counter()
        for _ in range(calls):
            function()
        taken = time.perf_counter() - begin
        if taken > seconds / 4:
            return max(1, round(calls * seconds / taken))
        calls *= 4


def interleaved(contenders: Mapping[str, Callable[[], object]], repetitions: int, seconds: float) -> dict[str, Timing]:
    """Each repetition times every contender once for about `seconds`; ratios are taken within a repetition.

    `spread` is the distance of the quartiles over the median; `ratio` is the first contender's time over this one's:
    above 1, this one is faster.
    """
    for function in contenders.values():
        for _ in range(3):
            function()
    calls = {name: calls_for(function, seconds) for name, function in contenders.items()}
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    gc.collect()
    gc.disable()
    try:
        for _ in range(repetitions):
            for name, function in contenders.items():
                begin = time.perf_counter()
                for _ in range(calls[name]):
                    function()
                taken[name].append(1e6 * (time.perf_counter() - begin) / calls[name])
    finally:
        gc.enable()
    reference = taken[next(iter(contenders))]
    timings = {}
    for name, times in taken.items():
        middle = statistics.median(times)
        low, _, high = statistics.quantiles(times, n=4)
        ratio = statistics.median(r / t for r, t in zip(reference, times, strict=True))
        timings[name] = Timing(middle, (high - low) / middle, ratio)
    return timings


@dataclass(frozen=True)
class Slope:
    """Microseconds per step, the median of the repetitions; the first contender's time over this one's (the other way round than
    `Timing`); milliseconds of a fit that do not depend on its length, and of the short fit as a whole."""

    microseconds: float
    spread: float
    ratio: float
    fixed_ms: float
    short_ms: float


@dataclass(frozen=True)
class Fit:
    """`run(epochs)` gives seconds; `short` is the smaller of the two numbers of epochs."""

    run: Callable[[int], float]
    short: int
    steps: int


def _long(fit: Fit, seconds: float) -> int:
    """How many epochs take about `seconds` more than the short fit."""
    more = 1
    while True:
        taken = min(fit.run(fit.short + more) for _ in range(2)) - min(fit.run(fit.short) for _ in range(2))
        if taken > seconds / 4 or more > 1_000_000:
            return fit.short + max(1, round(more * min(4.0, seconds / taken)))
        more *= 4


def slopes(contenders: Mapping[str, Fit], repetitions: int, seconds: float) -> dict[str, Slope]:
    """Each repetition times a short and a long fit of every contender; a step takes their difference over the steps between."""
    longs = {name: _long(fit, seconds) for name, fit in contenders.items()}
    step: dict[str, list[float]] = {name: [] for name in contenders}
    short: dict[str, list[float]] = {name: [] for name in contenders}
    gc.collect()
    gc.disable()
    try:
        for _ in range(repetitions):
            for name, fit in contenders.items():
                begin, end = fit.run(fit.short), fit.run(longs[name])
                step[name].append((end - begin) / ((longs[name] - fit.short) * fit.steps))
                short[name].append(begin)
    finally:
        gc.enable()
    reference = step[next(iter(contenders))]
    found = {}
    for name, fit in contenders.items():
        middle = statistics.median(step[name])
        low, _, high = statistics.quantiles(step[name], n=4)
        whole = statistics.median(short[name])
        found[name] = Slope(
            1e6 * middle,
            (high - low) / middle,
            statistics.median(r / t for r, t in zip(reference, step[name], strict=True)),
            1e3 * (whole - middle * fit.short * fit.steps),
            1e3 * whole,
        )
    return found


def fixed(run: Callable[[int], float], between: Callable[[], object], repetitions: int, more: int = 4) -> float:
    """Milliseconds of a fit that do not depend on its length, from fits of 1 and of 1 + `more` epochs. `run` takes little data:
    the noise of many steps does not cover what is looked for. `between` comes before each fit: none finds the caches as the last
    one left them."""
    one: list[float] = []
    longer: list[float] = []
    run(1)
    gc.collect()
    gc.disable()
    try:
        for _ in range(repetitions):
            for times, epochs in ((one, 1), (longer, 1 + more)):
                between()
                times.append(run(epochs))
    finally:
        gc.enable()
    first = statistics.median(one)
    return 1e3 * (first - (statistics.median(longer) - first) / more)
