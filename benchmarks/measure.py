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
