"""Test every command that writes files against faults. Prints a Markdown table and writes results/faults.json.

    python benchmarks/faults.py

The commands and the faults are those of tests/integration/test_durable.py, from tests/helpers/faults.py, on a toy
network. A cell counts the states after SIGKILL before each step that changes the file system, after a full disk (no
file may grow beyond 16, then 1,500 bytes), after a lost permission (only if root runs the script), and after a second
writer to the same path, which starts and finishes before each step of the first writer.

- "old", "new": the complete old or new state exists.
- "some old, some new": some of several independent files or images are old, others are new.
- "first whole", "second whole": the complete result of that writer exists.
- "one refused": one writer failed with an error; the complete result of the other exists.
- "BROKEN": anything else.

After each fault except the second writer, the same call runs again. It must give the new state and leave no draft.
Nothing is timed.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # processes are forked: no threads may run

import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import record

sys.path.insert(0, str(record.HERE.parent / "tests" / "helpers"))

import torch

from faults import ACTIONS, Found, Pair, Site, each

LIMITS = (16, 1500)
COLUMNS = ("SIGKILL at each step", "full disk", "lost permission", "second writer")


def word(outcome: Found | Pair) -> str:
    """The state after a fault, as a word."""
    if isinstance(outcome, Pair):
        errors = [ended for ended in (outcome.first, outcome.second) if ended.error]
        if outcome.kept == "broken" or outcome.left or not all(ended.refused for ended in errors):
            return "BROKEN"
        return "one refused" if errors else f"{outcome.kept} whole"
    if outcome.state == "broken" or outcome.again != "new":
        return "BROKEN"
    return outcome.state


def cells(site: Site, name: str) -> dict[str, dict[str, int]]:
    """For one command, the number of faults by state."""
    faults: dict[str, Any] = {"second writer": each(lambda number: site.second_writer(name, number))}
    if ACTIONS[name].kills:
        faults["SIGKILL at each step"] = each(lambda number: site.kill(name, number))
        faults["full disk"] = [site.full_disk(name, limit) for limit in LIMITS]
        if os.geteuid() == 0:
            faults["lost permission"] = [site.lost_permission(name)]
    return {fault: dict(Counter(map(word, faults[fault]))) for fault in COLUMNS if fault in faults}


def shown(cell: dict[str, int] | None) -> str:
    """A cell as text, such as "25: 24 old, 1 new"."""
    if cell is None:
        return "see test_sorting.py"
    return f"{sum(cell.values())}: " + ", ".join(f"{count} {what}" for what, count in cell.items())


def main() -> None:
    """Run, print and write JSON."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    measured, rows = record.commit(), {}
    print(f"| command | {' | '.join(COLUMNS)} |\n|{' --- |' * (1 + len(COLUMNS))}")
    with tempfile.TemporaryDirectory(prefix="featcache-test-") as folder:
        site = Site(Path(folder))
        for name in ACTIONS:
            rows[name] = cells(site, name)
            print(f"| {name} | {' | '.join(shown(rows[name].get(fault)) for fault in COLUMNS)} |", flush=True)
    counts = {fault: sum(sum(row.get(fault, {}).values()) for row in rows.values()) for fault in COLUMNS}
    broken = sum(cell.get("BROKEN", 0) for row in rows.values() for cell in row.values())
    figures = {"commands": len(rows), "faults": counts, "all": sum(counts.values()), "broken": broken, "table": rows}
    record.write("faults", figures, measured)


if __name__ == "__main__":
    main()
