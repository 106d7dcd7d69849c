"""Counts of what a call runs: no heap allocation in static steps, and which steps still go through ATen."""

import os
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import pytest
import torch
from networks import NETWORKS

import ortmod

COUNTER = r"""
#define _GNU_SOURCE
#include <stddef.h>
extern void* __libc_malloc(size_t);
extern void* __libc_calloc(size_t, size_t);
extern void* __libc_realloc(void*, size_t);
extern void* __libc_memalign(size_t, size_t);
static long count;
long allocations(void) { return count; }
void* malloc(size_t n) { __atomic_fetch_add(&count, 1, __ATOMIC_RELAXED); return __libc_malloc(n); }
void* calloc(size_t n, size_t m) { __atomic_fetch_add(&count, 1, __ATOMIC_RELAXED); return __libc_calloc(n, m); }
void* realloc(void* p, size_t n) { __atomic_fetch_add(&count, 1, __ATOMIC_RELAXED); return __libc_realloc(p, n); }
int posix_memalign(void** p, size_t a, size_t n) {
  __atomic_fetch_add(&count, 1, __ATOMIC_RELAXED);
  *p = __libc_memalign(a, n);
  return *p ? 0 : 12;
}
"""

PROBE = """
import ctypes, sys
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from test_steps import executable
count = ctypes.CDLL(None).allocations
count.restype = ctypes.c_long
for name in ("linear", "mlp", "wide_mlp", "transformer"):
    run, args, needs = executable(name)
    for backward in (False, True):
        run.time_steps(args, needs, False, 3, backward)
        seen = []
        for repeats in (1, 101):
            before = count()
            run.time_steps(args, needs, False, repeats, backward)
            seen.append(count() - before)
        print(name, backward, seen[1] - seen[0])
"""


def executable(name):
    make, shape = NETWORKS[name]
    model = ortmod._C.Model.from_bytes(make().SerializeToString())
    weights = [w for w, _, _ in model.weights if w.endswith((".weight", ".bias"))]
    run = ortmod._C.Executable(model, weights)
    args = [torch.randn(*shape)] + [model.weight(w) for w in weights]
    return run, args, list(range(1, len(args)))


@pytest.mark.skipif(sys.platform != "linux", reason="counts by glibc's malloc")
def test_static_steps_do_not_allocate(tmp_path):
    source, library = tmp_path / "count.c", tmp_path / "count.so"
    source.write_text(COUNTER)
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, source], check=True)
    env = dict(os.environ, LD_PRELOAD=str(library))
    out = subprocess.run(
        [sys.executable, "-c", PROBE, str(Path(__file__).parent)], env=env, check=True, capture_output=True, text=True
    ).stdout
    counts = [line.split() for line in out.splitlines()]
    assert len(counts) == 8 and [line for line in counts if line[2] != "0"] == []


THROUGH_ATEN = {
    "linear": {},
    "mlp": {},
    "wide_mlp": {},
    "transformer": {},
    "cnn": {"Conv": 2, "ortmod::ConvGradInput": 1, "ortmod::ConvGradWeight": 2},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_steps_through_aten(name):
    run, args, needs = executable(name)
    steps = run.report(args, needs, False)["steps"]
    assert Counter(op for _, aten, op, _ in steps if aten) == Counter(THROUGH_ATEN[name])


# Steps of one forward and backward; more is a regression of fusion.
STEPS = {"linear": 3, "mlp": 8, "wide_mlp": 8, "transformer": 90, "cnn": 21}


@pytest.mark.parametrize("name", NETWORKS)
def test_number_of_steps(name):
    run, args, needs = executable(name)
    assert len(run.report(args, needs, False)["steps"]) <= STEPS[name]
