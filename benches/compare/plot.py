"""The plot: CPU for each unit of work over nginx's, as an SVG written by hand. The background is
transparent and the colours are of middle lightness: it reads on light and on dark pages."""

from html import escape

from report import digits

WIDTH, COLUMN, NAME, BAR = 900, 440, 96, 236
# where the figures end, from the left of a panel: the ratio, and the time itself
RATIO_END, TIME_END = NAME + BAR + 40, NAME + BAR + 92
LINE, TITLE, HEAD, GAP = 15, 24, 30, 14
RATIO_MAX = 2.0
BASE = "nginx"
COLOURS = {"narthex": "#d9730d", "floor": "#8a8f98"}
PEER_COLOUR, TEXT, AXIS = "#5b8dc9", "#7d858e", "#9aa1a9"
LEFT = [("narinfos", ["narinfo", "narinfo-404", "narinfo-h2"]),
        ("from an empty cache", ["nar-cold", "nar-cold-1G", "closure-cold"])]
RIGHT = [("NARs, plain HTTP/1.1", ["nar-64K", "nar-1M", "nar-64M", "upgrade",
                                   "nar-1M-lines", "nar-64M-lines"]),
         ("NARs over TLS", ["nar-64M-tls", "nar-64M-h2"])]
TITLES = {
    "narinfo": "narinfo, HTTP/1.1",
    "narinfo-404": "remembered 404, HTTP/1.1",
    "narinfo-h2": "narinfo, TLS, HTTP/2",
    "nar-64K": "NAR of 64 KiB",
    "nar-1M": "NAR of 1 MiB",
    "nar-64M": "NAR of 64 MiB",
    "nar-1M-lines": "NAR of 1 MiB, 40 clients at 200 Mbit/s",
    "nar-64M-lines": "NAR of 64 MiB, 40 clients at 200 Mbit/s",
    "upgrade": "requests of system upgrades, mixed",
    "nar-64M-tls": "NAR of 64 MiB, HTTP/1.1",
    "nar-64M-h2": "NAR of 64 MiB, HTTP/2, 100 streams",
    "nar-cold": "NAR of 64 MiB, origin in memory",
    "nar-cold-1G": "NAR of 64 MiB, origin behind 1 Gbit/s",
    "closure-cold": "closure of 200 NARs",
}
COLD_UNITS = {"nar-cold": "s/GiB", "nar-cold-1G": "s/GiB", "closure-cold": "s"}


def rows_of(results):
    """CPU by work and server, and the unit of each work."""
    rows = {name: ({server: found["cpu"]["median"] for server, found in row["servers"].items()},
                   row["cpu_unit"])
            for name, row in results["works"].items()}
    for name, servers in results["cold"].items():
        rows[name] = ({server: row["cpu"]["median"] for server, row in servers.items()
                       if "cpu" in row}, COLD_UNITS[name])
    return rows


def text(x, y, words, anchor="start", size=11, weight="normal", colour=TEXT):
    return (f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}" '
            f'font-weight="{weight}" fill="{colour}">{escape(words)}</text>')


def bar(x, y, server, value, base):
    """One server's bar, cut at RATIO_MAX with two strokes through it, and its figures: its ratio
    and its time."""
    ratio = value / base
    length = max(1.0, min(ratio, RATIO_MAX) * BAR / RATIO_MAX)
    colour = COLOURS.get(server, PEER_COLOUR)
    parts = [
        text(x + NAME - 6, y + 11, server, "end", weight="bold" if server == "narthex" else
             "normal", colour=colour if server == "narthex" else TEXT),
        f'<rect x="{x + NAME}" y="{y + 2}" width="{length:.1f}" height="{LINE - 4}" '
        f'fill="{colour}"/>',
    ]
    if ratio > RATIO_MAX:
        parts += [f'<path d="M{x + NAME + BAR - at} {y + LINE} l6 -{LINE}" stroke="{AXIS}" '
                  'stroke-width="2"/>' for at in (14, 19)]
    parts.append(text(x + RATIO_END, y + 11, f"{ratio:.2f}", "end", weight="bold"))
    parts.append(text(x + TIME_END, y + 11, digits(value), "end"))
    return parts


def panel(x, y, title, works, rows):
    """One panel; returns its parts and the place below it."""
    parts = [text(x, y + 18, title, size=14, weight="bold")]
    y += HEAD
    for work in works:
        values, unit = rows[work]
        base_name = base_of(values)
        parts.append(text(x + NAME, y + 14, TITLES[work], weight="bold"))
        parts.append(text(x + TIME_END, y + 14, unit, "end"))
        y += TITLE - 4
        top = y
        for server, value in values.items():
            parts += bar(x, y, server, value, max(values[base_name], 1e-9))
            y += LINE
        at = x + NAME + BAR / RATIO_MAX
        parts.append(f'<line x1="{at}" y1="{top}" x2="{at}" y2="{y}" stroke="{AXIS}" '
                     'stroke-dasharray="2 3"/>')
        y += GAP - 6
    return parts, y + GAP


def base_of(servers):
    """The one that the others are measured by: nginx as shipped where it takes part."""
    return BASE if BASE in servers else next(iter(servers))


def draw(results):
    """The plot of the results as the text of an SVG file."""
    rows = rows_of(results)
    parts, bottom = [], 0
    for x, panels in [(10, LEFT), (10 + COLUMN + 10, RIGHT)]:
        y = 72
        for title, works in panels:
            works = [work for work in works if work in rows]
            if works:
                more, y = panel(x, y, title, works, rows)
                parts += more
        bottom = max(bottom, y)
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items()
                         if name not in ("floor", "nginx-tuned"))
    heading = [
        text(10, 22, "CPU time of the server for each unit of work, "
             f"{base_of(results['versions'])} = 1; less is better", size=15, weight="bold"),
        text(10, 42, versions),
        text(10, 58, f"{results['machine']['cores']} cores, loopback, medians of "
             f"{results['rounds']} rounds. The floor is a bare loop that answers without looking."),
    ]
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom}" '
        f'width="{WIDTH}" height="{bottom}" font-family="sans-serif">',
        *heading, *parts, "</svg>", ""])
