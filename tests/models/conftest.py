"""Cases (family, mode, dtype) of the whole networks, and the table of exports at the end of a run."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest  # noqa: E402
import zoo  # noqa: E402


@pytest.fixture
def export(request):
    """The export that family, mode and dtype name; a failure inside torch is expected, with its reason."""
    values = request.node.callspec.params
    try:
        return zoo.export(values["family"], values["mode"], values["dtype"])
    except zoo.ExportFailed as e:
        pytest.xfail(f"torch itself cannot export: {e}")


def pytest_terminal_summary(terminalreporter):
    records = zoo.records()
    if not records:
        return
    terminalreporter.section("exports by torch (s: sdpa, e: eager attention; +: dynamic axes; -: failed)")
    modes = zoo.MODES
    for dtype in zoo.DTYPES:
        terminalreporter.write_line(f"{dtype:<12}" + "".join(f"{m:>13}" for m in modes))
        for family in zoo.FAMILIES:
            cells = []
            for mode in modes:
                r = records.get(f"{family}_{mode}_{dtype}")
                done = r is not None and "attn" in r
                cells.append("" if r is None else f"{r['attn'][0]}{'+' if r['dynamic'] else ''}" if done else "-")
            terminalreporter.write_line(f"{family:<12}" + "".join(f"{c:>13}" for c in cells))
    refusals = {}
    for name, r in records.items():
        for attempt, why in r["errors"].items():
            refusals.setdefault(f"{attempt}: {why}", []).append(name)
    for why, names in refusals.items():
        terminalreporter.write_line(f"refused by torch ({len(names)}: {', '.join(names[:3])}{', ...' if names[3:] else ''}) {why}")
