"""The directions of #include in csrc/, and that the check sees each kind of violation."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def check(csrc: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "check_layers.py"), str(csrc)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_sources_are_in_order():
    assert any((ROOT / "csrc").rglob("*.cpp"))
    result = check(ROOT / "csrc")
    assert result.returncode == 0, result.stdout


GOOD = {
    "graph/type.h": "#include <vector>",
    "graph/proto.cpp": '#include "onnx.pb.h"\n#include "graph/type.h"',
    "kernels/cpu/gemm.h": "#include <ATen/ATen.h>",
    "ops/op.h": '#include "graph/type.h"\n#include "kernels/cpu/gemm.h"',
    "exec/plan.cpp": '#include "ops/op.h"\n#include <torch/torch.h>',
    "python/bind.cpp": '#include "exec/plan.h"\n#include <torch/extension.h>',
}


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("graph/infer.cpp", '#include "ops/op.h"', "graph/infer.cpp: includes ops/op.h"),
        ("graph/bad.h", "#include <ATen/ATen.h>", "a header of graph/ sees ATen/ATen.h"),
        ("graph/bad.h", '#include "onnx.pb.h"', "a header of graph/ sees onnx.pb.h"),
        ("kernels/bad.cpp", '#include "graph/type.h"', "kernels/bad.cpp: includes graph/type.h"),
        ("ops/bad.cpp", "#include <torch/extension.h>", "which only python/ may"),
        ("graph/both.cpp", '#include "onnx.pb.h"\n#include "mid.h"', "both protobuf (onnx.pb.h) and torch (ATen/"),
        ("somewhere/bad.cpp", "", "unknown folder 'somewhere'"),
    ],
)
def test_violations_are_named(tmp_path, path, text, message):
    middle = {"graph/mid.h": "#include <ATen/ATen.h>"} if "mid.h" in text else {}
    for name, content in GOOD.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert check(tmp_path).returncode == 0
    for name, content in {**middle, path: text}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    result = check(tmp_path)
    assert result.returncode == 1
    assert message in result.stdout
