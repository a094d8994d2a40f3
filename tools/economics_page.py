"""Writes what the chain's calls cost to assay/_data/gas.json, from bench/results/dispute_gas.json, and the tables of docs/economics.md.

    python tools/economics_page.py            write both
    python tools/economics_page.py --check    exit 1 when one of them is not what it should be

To be run after `python bench/all.py dispute_gas`, and when a default of a job's terms has changed. It measures nothing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORD, GAS, PAGE = ROOT / "bench" / "results" / "dispute_gas.json", ROOT / "assay" / "_data" / "gas.json", ROOT / "docs" / "economics.md"
BEGIN, END = "<!-- {name}: python tools/economics_page.py -->\n", "<!-- end of {name} -->\n"


def gas() -> str:
    """What assay/_data/gas.json should hold."""
    figures = json.loads(RECORD.read_text())["figures"]
    return json.dumps({name: figures[name] for name in ("committees", "jobs", "totals")}, indent=1, sort_keys=True) + "\n"


def page(text: str) -> str:
    """`text` with every table as it should be. Raises ValueError when it has no place for one."""
    from assay.cli.economics import tables
    from assay.economics import Case

    for table in tables(Case()):
        begin, end = (mark.format(name=table.title.lower()) for mark in (BEGIN, END))
        lines = [table.header, tuple("---" for _ in table.header), *table.rows]
        drawn = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
        start = text.index(begin) + len(begin)
        text = text[:start] + drawn + text[text.index(end) :]
    return text


def main() -> int:
    wrong = []
    if not GAS.exists() or GAS.read_text() != gas():
        wrong.append(GAS)
        if "--check" not in sys.argv:
            GAS.write_text(gas())
    before = PAGE.read_text()
    after = page(before)
    if after != before:
        wrong.append(PAGE)
        if "--check" not in sys.argv:
            PAGE.write_text(after)
    for path in wrong:
        print(f"{path.relative_to(ROOT)} {'is not what it should be' if '--check' in sys.argv else 'written'}")
    return 1 if wrong and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
