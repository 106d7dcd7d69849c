"""Checks the directions of #include between the folders of csrc/; prints each violation, exits 1 if there is one."""

import re
import sys
from pathlib import Path

# graph <- ops <- {grad, passes} <- exec <- {autograd, train} <- python, and kernels <- ops
KERNELS = {"kernels"}
OPS = {"graph", "ops"} | KERNELS
EXEC = OPS | {"grad", "passes", "exec"}
MAY_INCLUDE = {
    "graph": {"graph"},
    "kernels": KERNELS,
    "ops": OPS,
    "grad": OPS | {"grad"},
    "passes": OPS | {"passes"},
    "exec": EXEC,
    "autograd": EXEC | {"autograd"},
    "train": EXEC | {"train"},
    "python": EXEC | {"autograd", "train", "python"},
}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)
TORCH = re.compile(r"^(torch|ATen|c10)/")
PROTOBUF = re.compile(r"\.pb\.h$|^google/protobuf/")
PYTHON = re.compile(r"^(torch/(extension|python)\.h|torch/csrc/utils/pybind\.h|pybind11/.*|Python\.h)$")


def includes_of(path: Path, csrc: Path) -> tuple[set[Path], set[str]]:
    """The project's files that `path` includes, and the other names."""
    own, foreign = set(), set()
    for quote, name in INCLUDE.findall(path.read_text(encoding="utf-8")):
        places = [csrc / name, path.parent / name] if quote == '"' else []
        found = next((place.resolve() for place in places if place.is_file()), None)
        if found:
            own.add(found)
        else:
            foreign.add(name)
    return own, foreign


def violations(csrc: Path) -> list[str]:
    csrc = csrc.resolve()
    files = sorted(path for path in csrc.rglob("*") if path.suffix in {".h", ".cpp", ".cu", ".cuh"})
    includes = {path: includes_of(path, csrc) for path in files}

    def foreign_names(path: Path) -> set[str]:
        """Everything foreign that `path` sees, directly or through the project's headers."""
        seen, todo, names = {path}, [path], set[str]()
        while todo:
            own, foreign = includes[todo.pop()]
            names |= foreign
            todo += own - seen
            seen |= own
        return names

    found = []
    for path in files:
        where, folder = path.relative_to(csrc).as_posix(), path.relative_to(csrc).parts[0]
        if folder not in MAY_INCLUDE:
            found.append(f"{where}: unknown folder {folder!r}, expected one of {', '.join(MAY_INCLUDE)}")
            continue
        for other in sorted(includes[path][0]):
            target = other.relative_to(csrc).parts[0] if other.is_relative_to(csrc) else other.as_posix()
            if target not in MAY_INCLUDE[folder]:
                name = other.relative_to(csrc).as_posix() if other.is_relative_to(csrc) else target
                allowed = ", ".join(sorted(MAY_INCLUDE[folder]))
                found.append(f"{where}: includes {name}, but {folder} may only include {allowed}")
        names = foreign_names(path)
        torch, protobuf = (sorted(filter(kind.search, names)) for kind in (TORCH, PROTOBUF))
        if folder == "graph" and path.suffix == ".h":
            found += [f"{where}: a header of graph/ sees {name}" for name in torch + protobuf]
        elif torch and protobuf:
            found.append(f"{where}: sees both protobuf ({protobuf[0]}) and torch ({torch[0]}): separate them")
        if folder != "python":
            found += [f"{where}: sees {name}, which only python/ may" for name in sorted(filter(PYTHON.search, names))]
    return found


def main(arguments: list[str]) -> int:
    csrc = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent / "csrc"
    found = violations(csrc)
    print("\n".join(found) or f"layers: {csrc.name}/ is in order")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
