"""Writes docs/operators.md, the table of operators, from what the compiled code says; --check only compares."""

import sys
from pathlib import Path

import onnx

import ortmod

TARGET = Path(__file__).resolve().parent.parent / "docs" / "operators.md"
OLDEST = {"": 7}
HEAD = """# Operators

Written by `make docs` from `ortmod.supported_ops()`. Opsets: the first and the newest version that runs. Gradient:
*yes*; *zero*, where the derivative is zero wherever it exists or none is defined (comparisons, shapes, integers); *no*,
where one exists but is not implemented. Operators that the standard defines as functions run through their bodies.
"""


def text() -> str:
    """The file as it should be."""
    parts, ops = [HEAD], ortmod.supported_ops()
    introduced: dict[tuple[str, str], int] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        key = (schema.domain, schema.name)
        introduced[key] = min(schema.since_version, introduced.get(key, schema.since_version))
    for domain in sorted({op.domain for op in ops} - {"ortmod"}):
        mine = [op for op in ops if op.domain == domain]
        with_gradient = sum(op.gradient == "yes" for op in mine)
        parts.append(f"\n## {domain or 'ai.onnx'}\n\n{len(mine)} operators, {with_gradient} with a gradient.\n")
        parts.append("| operator | opsets | runs | gradient | limits |\n|---|---|---|---|---|")
        for op in mine:
            first = max(op.since, OLDEST.get(domain, 1), introduced.get((domain, op.op), 1))
            runs = "yes" if op.forward else "no"
            parts.append(f"| {op.op} | {first}-{op.newest} | {runs} | {op.gradient} | {op.limits} |")
    return "\n".join(parts) + "\n"


def main(arguments: list[str]) -> int:
    if "--check" not in arguments:
        TARGET.write_text(text(), encoding="utf-8")
        return 0
    if TARGET.exists() and TARGET.read_text(encoding="utf-8") == text():
        return 0
    print(f"docs/{TARGET.name} is not what ortmod.supported_ops() says: run `make docs`")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
