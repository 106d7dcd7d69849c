"""Plain text tables."""

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[object]], widest: int = 60) -> str:
    """Left-aligned columns under a header and a rule; cells beyond `widest` characters are cut, except in the last column."""
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    for row in cells:
        row[:-1] = [cell if len(cell) <= widest else cell[: widest - 1] + "…" for cell in row[:-1]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    lines.insert(1, "  ".join("-" * width for width in widths[:-1]) + "  " + "-" * len(header[-1]))
    return "\n".join(lines)
