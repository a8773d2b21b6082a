"""The table, the drawing, and where they are written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import median

from rows import Line
from servers import FILES, FSYNCS, MEMORY, OURS

LETTER = 6.3
"""Pixels of a letter, about: names of lines must not be cut off."""

Figures = Mapping[str, Sequence[float]]
"""By server: one figure a round, in the line's unit; none if the server failed."""

COLOURS = {OURS: "#2a7f62", FILES: "#c44536", MEMORY: "#8d99ae"}

FSYNCED = {server: "fsynced" if fsyncs else "never fsynced" for server, fsyncs in FSYNCS.items()}


def ratios(figures: Figures, against: str) -> list[float]:
    """Return ours by theirs, round by round."""
    return [ours / theirs for ours, theirs in zip(figures[OURS], figures[against], strict=True)]


def judge(line: Line, figures: Figures) -> list[tuple[str, bool]]:
    """Return each bar of the line as words, and whether the median meets it; a server that failed sets no bar."""
    verdicts = []
    for bar in line.bars:
        if bar.against is not None and not figures[bar.against]:
            continue
        value = median(figures[OURS]) if bar.against is None else median(ratios(figures, bar.against))
        met = value >= bar.factor if line.higher else value <= bar.factor
        verdicts.append((bar.spell(higher=line.higher), met))
    return verdicts


def build_table(lines: Sequence[tuple[Line, Figures]]) -> str:
    """Return a Markdown table."""
    rows = [
        "| what | unit | ds-sync | reference, files | reference, memory | ds-sync : files | ds-sync : memory | fsynced by | bar |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for line, figures in lines:
        cells = [line.what, line.unit]
        cells += [spell(figures[server]) if server in figures else "" for server in (OURS, FILES, MEMORY)]
        cells += [spell(ratios(figures, server), 2) if figures.get(server) else "" for server in (FILES, MEMORY)]
        cells.append("; ".join(server for server in figures if FSYNCS[server]))
        cells.append("; ".join(f"{words}: {'met' if met else '**missed**'}" for words, met in judge(line, figures)))
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def draw_bars(
    title: str,
    unit: str,
    lines: Sequence[tuple[Line, Figures]],
    colours: Mapping[str, str] = COLOURS,
    legends: Mapping[str, str] = FSYNCED,
) -> str:
    """Return an SVG: a group of bars for each line, the median as the bar, the range of the rounds as a thin line."""
    label = max(330, *(round(len(line.what) * LETTER) + 16 for line, _ in lines))
    width, right, bar, gap = 530 + label, 90, 13, 14
    longest = max((value for _, figures in lines for values in figures.values() for value in values), default=1.0) or 1.0
    scale = (width - label - right) / longest
    parts: list[str] = []
    legend: list[str] = []
    shown = [server for server in colours if any(server in figures for _, figures in lines)]
    for index, server in enumerate(shown):
        x, y = 12 + index % 3 * 260, 36 + index // 3 * 16
        words = escape(f"{server} ({legends[server]})")
        legend.append(
            f'<rect x="{x}" y="{y}" width="11" height="11" fill="{colours[server]}"/><text x="{x + 15}" y="{y + 10}">{words}</text>'
        )
    y = 62 + (len(shown) - 1) // 3 * 16
    for line, figures in lines:
        parts.append(f'<text x="{label - 8}" y="{y + bar * len(figures) / 2 + 4:.0f}" text-anchor="end">{escape(line.what)}</text>')
        for server, values in figures.items():
            if not values:
                continue
            middle = median(values)
            parts.append(f'<rect x="{label}" y="{y}" width="{max(middle * scale, 1):.1f}" height="{bar - 2}" fill="{colours[server]}"/>')
            least, most = label + min(values) * scale, label + max(values) * scale
            parts.append(f'<path d="M{least:.1f} {y + bar / 2 - 1}H{most:.1f}" stroke="#222" stroke-width="1"/>')
            parts.append(f'<text x="{most + 5:.1f}" y="{y + bar - 3}" class="n">{_number(middle)}</text>')
            y += bar
        y += gap
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" width="{width}" height="{y}" role="img">',
            "<style>text{font:12px system-ui,sans-serif;fill:#222}.n{font-size:11px}.t{font-size:15px;font-weight:600}</style>",
            f'<rect width="{width}" height="{y}" fill="#fff"/>',
            f'<text x="12" y="22" class="t">{escape(title)} ({escape(unit)})</text>',
            *legend,
            *parts,
            "</svg>\n",
        ]
    )


def write_part(page: Path, text: str, mark: str = "bench") -> None:
    """Put `text` between the marks of a page. Raises ValueError without them."""
    first, last = f"<!-- {mark} -->\n", f"<!-- /{mark} -->"
    before, begin, rest = page.read_text("utf-8").partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"{page} has no {first.strip()} and {last}")
    page.write_text(before + begin + text + end + after, "utf-8")


def _number(value: float, digits: int = 3) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return re.sub(r"\.0+$", "", f"{value:.{max(digits - len(str(int(value))), 0)}f}")


def spell(values: Sequence[float], digits: int = 3) -> str:
    if not values:
        return "failed"
    middle = _number(median(values), digits)
    return middle if len(values) == 1 else f"{middle} ({_number(min(values), digits)}–{_number(max(values), digits)})"
