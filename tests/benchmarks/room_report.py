"""The table and the drawings of rooms, and where they are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench import REFERENCE
from compaction import FSYNCS as COMPACTION_FSYNCS
from report import Figures, draw_bars, judge, ratios, spell, write_part
from room_servers import ALL, FSYNCS
from rows import Line
from servers import OURS

COLOURS = dict(zip(ALL, ("#2a7f62", "#8d99ae", "#c44536", "#5b5f97", "#e0a030"), strict=True))
LEGENDS = {name: f"fsync {when}" for name, when in FSYNCS.items()}

DRAWINGS = (
    ("latency", "ms", "One writer, many readers of a room: latency"),
    ("flood", "updates/s", "Updates delivered, unpaced"),
    ("push", "s", "A recorded session pushed into a room"),
    ("join", "s", "That session joined by a browser's provider, right after a restart"),
)


def build_table(lines: Sequence[tuple[Line, Figures]], fsyncs: Mapping[str, str]) -> str:
    """Return a Markdown table of those servers. After another's figure: how many times theirs ours is, round by round."""
    rows = [f"| what | unit | {' | '.join(fsyncs)} | fsynced | bar |", "| --- " * (len(fsyncs) + 4) + "|"]
    for line, figures in lines:
        cells = [line.what, line.unit]
        for server in fsyncs:
            cell = spell(figures[server]) if server in figures else ""
            if server != OURS and figures.get(OURS) and figures.get(server) and min(figures[server]) > 0:
                cell += f"; ours: × {spell(ratios(figures, server), 2)}"
            cells.append(cell)
        cells.append("; ".join(f"{server}: {fsyncs[server]}" for server in figures))
        cells.append("; ".join(f"{words}: {'met' if met else '**missed**'}" for words, met in judge(line, figures)))
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def write_report(lines: Sequence[tuple[str, Line, Figures]], compaction: Sequence[tuple[Line, Figures]], facts: str) -> None:
    """Write table and drawings into the documentation."""
    drawings = REFERENCE / "measurements"
    drawings.mkdir(exist_ok=True)
    text = f"{facts}\n\n"
    for group, unit, title in DRAWINGS:
        chosen = [(line, figures) for name, line, figures in lines if name == group and line.unit == unit]
        if chosen:
            (drawings / f"rooms-{group}.svg").write_text(draw_bars(title, unit, chosen, COLOURS, LEGENDS), "utf-8")
            text += f"![{title}](measurements/rooms-{group}.svg)\n\n"
    text += build_table([(line, figures) for _, line, figures in lines], FSYNCS) + "\n\n"
    text += build_table(compaction, COMPACTION_FSYNCS) + "\n"
    write_part(REFERENCE / "measurements.md", text, "rooms")
