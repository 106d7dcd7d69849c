"""Writes the schemas of the standard operators, as the installed onnx has them, for csrc/graph/schema.cpp."""

import sys
from pathlib import Path

import onnx
from onnx import defs, helper

DOMAINS = {"", "ai.onnx.ml", "ai.onnx.preview.training"}
OPTIONS = {defs.OpSchema.FormalParameterOption.Single: "", defs.OpSchema.FormalParameterOption.Optional: "?"}
CODES = {name.lower(): code for name, code in onnx.TensorProto.DataType.items()}


def mask(types: list[str]) -> int:
    """Bit c: tensor of dtype code c; bit 31: something that is not a tensor."""
    found = 0
    for text in types:
        inner = text[len("tensor(") : -1] if text.startswith("tensor(") else None
        found |= 1 << CODES[inner] if inner in CODES else 1 << 31
    return found


def formals(parameters, masks: dict[str, int]) -> str:
    words = []
    for p in parameters:
        variadic = p.option == defs.OpSchema.FormalParameterOption.Variadic
        how = ("*" if p.is_homogeneous else "+") if variadic else OPTIONS[p.option]
        allowed = masks.get(p.type_str, mask([p.type_str]) if "(" in p.type_str else 0xFFFFFFFF)
        words.append(f"{p.type_str if p.type_str in masks else '-'}:{allowed:x}:{how}")
    return ",".join(words)


def row(schema) -> str:
    masks = {c.type_param_str: mask(list(c.allowed_type_strs)) for c in schema.type_constraints}
    attributes = ",".join(
        f"{a.name}:{int(a.type.value)}:{int(a.required)}" for a in sorted(schema.attributes.values(), key=lambda a: a.name)
    )
    limits = [schema.min_input, schema.max_input, schema.min_output, schema.max_output]
    numbers = ", ".join(str(min(n, 2**31 - 1)) for n in limits)
    texts = ", ".join(f'"{t}"' for t in (formals(schema.inputs, masks), formals(schema.outputs, masks), attributes))
    flags = f"{str(schema.deprecated).lower()}"
    return f'{{"{schema.domain}", "{schema.name}", {schema.since_version}, {numbers}, {flags}, {texts}}},'


def main(path: str) -> None:
    schemas = [s for s in defs.get_all_schemas_with_history() if s.domain in DOMAINS]
    schemas.sort(key=lambda s: (s.domain, s.name, s.since_version))
    newest = {d: max(s.since_version for s in schemas if s.domain == d) for d in DOMAINS}
    newest[""] = defs.onnx_opset_version()
    lines = ["#ifdef ORTMOD_SCHEMAS", *map(row, schemas), "#endif", "#ifdef ORTMOD_NEWEST"]
    lines += [f'{{"{domain}", {version}}},' for domain, version in sorted(newest.items())]
    lines += ["#endif", "#ifdef ORTMOD_IR_VERSIONS"]
    table = sorted((entry[2], entry[1]) for entry in helper.VERSION_TABLE)
    lines += [f"{{{opset}, {ir}}}," for opset, ir in table]
    lines += ["#endif", "#ifdef ORTMOD_NEWEST_IR", str(onnx.IR_VERSION), "#endif", ""]
    Path(path).write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
