"""A problem's dependency graph as a picture: `python -m synth.generate --ops 12 --count 1 --figure graph.png`.

Left to right from what the sentences give to the question. Blue boxes are instance parameters, orange ones abstract,
dashed grey ones are not needed; the number in a circle is the step of the solution, the thick box is the query. Rows
follow Sugiyama, Tagawa and Toda (1981): layers, virtual nodes on long edges, sweeps of barycentres.
"""

import itertools
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Curve
from scipy.optimize import isotonic_regression

from synth.dataset import Source
from synth.documents import SOLUTION_SEGMENT, Documents
from synth.problem.arrays import INSTANCES, MISSING, N_SENTENCES, Problems, dependencies
from synth.store.files import atomic_path
from synth.world.vocabulary import DOES, HAVE, HOW_MANY, World

COLUMN, ROW, VIRTUAL_ROW = 2.55, 0.76, 0.3  # inches between layers, nodes, and edges that only pass by
BOX = (1.85, 0.56)
SWEEPS = 24
INK = "#22303c"
FILL = {
    "instance": ("#dcebf9", "#2f6fae"), "abstract": ("#fdebd3", "#c46f0e"),
    "undetermined": ("#fbe4e4", "#b93f4a"), "unneeded": ("#ffffff", "#b4bcc5"),
}  # fmt: skip
LINE_HEIGHT = 0.11


class Layout(NamedTuple):
    """Where everything is drawn, in inches; an edge is the points it passes through."""

    place: dict[int, tuple[float, float]]  # slot -> centre of its box
    edges: list[tuple[int, int, list[tuple[float, float]]]]  # (dependency, dependent, points in between)


def draw_document(source: Source, documents: Documents, i: int, path: str) -> None:
    """Write the picture of document i of `documents` to `path`, its steps numbered as its solution has them."""
    span = slice(documents.offsets[i], documents.offsets[i + 1])
    steps = (documents.segment[span] == SOLUTION_SEGMENT) & (documents.mistake[span] == 0)
    draw(documents.problems.take(i), source.world, list(dict.fromkeys(documents.param[span][steps].tolist())), path)


def draw(problem: Problems, world: World, order: list[int], path: str) -> None:
    """Write the picture of a batch of one to `path` (.png, .svg or .pdf); `order`: slots as the solution has them."""
    slots = shown(problem)
    below = {s: [d for d in dict.fromkeys(dependencies(problem, s)) if d != s] for s in slots}
    layout = lay_out(below)
    xs, ys = np.array(list(layout.place.values())).T
    passing = [y for *_, points in layout.edges for _, y in points]
    low, high = min([*ys, *passing]), max([*ys, *passing])
    left, right = xs.min() - BOX[0] / 2 - 0.25, xs.max() + BOX[0] / 2 + 0.25
    right = max(right, left + 6.6)  # room for the question and the legend
    figure = Figure(figsize=(right - left, high - low + 1.95), dpi=160)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(left, right), ylim=(low - 0.85, high + 1.1))
    axes.set_axis_off()
    matters = ancestors(problem)
    for source, target, points in sorted(layout.edges, key=lambda e: e[1] in matters):
        _draw_edge(axes, layout.place, source, target, points, target in matters)
    names = problem.slot_names()[0]
    kinds = {s: _kind(problem, s, s in matters) for s in slots}
    for s in slots:
        step = order.index(s) + 1 if s in order else None
        _draw_box(axes, problem, s, kinds[s], layout.place[s], world, names[s], step)
    _draw_title(axes, problem, world, (left + 0.25, high + 0.82))
    _draw_legend(axes, (left + 0.25, low - 0.6), set(kinds.values()))
    kind = Path(path).suffix
    with atomic_path(Path(path)) as temporary:
        figure.savefig(temporary, format=kind[1:], metadata={"Date": None} if kind != ".png" else None)


def shown(problem: Problems) -> list[int]:
    """Slots in the picture: every instance parameter, the query, and the abstract parameters these depend on."""
    instances = np.flatnonzero(problem.exists[0, :INSTANCES] > 0).tolist()
    return sorted(_reached(problem, [int(problem.query[0]), *instances]))


def ancestors(problem: Problems) -> set[int]:
    """The query and all it depends on, whether it can be computed or not."""
    return _reached(problem, [int(problem.query[0])])


def _reached(problem: Problems, slots: list[int]) -> set[int]:
    found: set[int] = set()
    stack = list(slots)
    while stack:
        if (slot := stack.pop()) not in found:
            found.add(slot)
            stack += dependencies(problem, slot)
    return found


def _kind(problem: Problems, slot: int, matters: bool) -> str:
    if not matters:
        return "unneeded"
    if problem.value[0, slot] < 0:
        return "undetermined"
    return "instance" if slot < INSTANCES else "abstract"


def layers_of(below: dict[int, list[int]]) -> dict[int, int]:
    """Layer of each slot: after all it depends on, and otherwise as close as possible to what depends on it."""
    layer: dict[int, int] = {}

    def height(slot: int) -> int:
        if slot not in layer:
            layer[slot] = 1 + max((height(b) for b in below[slot]), default=-1)
        return layer[slot]

    above: dict[int, list[int]] = {s: [] for s in below}
    for slot in below:
        height(slot)
        for b in below[slot]:
            above[b].append(slot)
    for slot in sorted(below, key=lambda s: -layer[s]):
        if above[slot]:
            layer[slot] = min(layer[a] for a in above[slot]) - 1
    first = min(layer.values())
    return {slot: n - first for slot, n in layer.items()}


def lay_out(below: dict[int, list[int]]) -> Layout:
    """Places of slots and edges, from what each slot depends on."""
    layer = layers_of(below)
    rows: list[list] = [[s for s in below if layer[s] == n] for n in range(max(layer.values()) + 1)]
    edges, near = [], defaultdict(lambda: ([], []))  # near: what stands before and behind a node
    for source, target in ((source, target) for target, sources in below.items() for source in sources):
        virtual = [(source, target, n) for n in range(layer[source] + 1, layer[target])]
        edges.append((source, target, virtual))
        for node in virtual:
            rows[node[2]].append(node)
        for a, b in itertools.pairwise([source, *virtual, target]):
            near[a][1].append(b)
            near[b][0].append(a)
    y = _heights(rows, near)
    place = {slot: (layer[slot] * COLUMN, y[slot]) for slot in below}
    return Layout(place, [(a, b, [(v[2] * COLUMN, y[v]) for v in virtual]) for a, b, virtual in edges])


def _heights(rows: list[list], near: dict) -> dict:
    """Height of every node: rows ordered by barycentre, then pulled towards their neighbours without overlap."""
    y = {node: float(i) for row in rows for i, node in enumerate(row)}
    best, fewest = [list(row) for row in rows], np.inf
    for sweep in range(SWEEPS):
        for n in range(len(rows)) if sweep % 2 == 0 else reversed(range(len(rows))):
            rows[n].sort(key=lambda v: _mean([y[w] for w in near[v][sweep % 2]], y[v]))
            for i, node in enumerate(rows[n]):
                y[node] = i - (len(rows[n]) - 1) / 2
        crossings = _crossings(rows, near)
        if crossings < fewest:
            best, fewest = [list(row) for row in rows], crossings
    for row in best:
        y.update(zip(row, _spread(row, [0.0] * len(row)), strict=True))
    for sweep in range(SWEEPS):
        for row in best if sweep % 2 else reversed(best):
            wanted = [_mean([y[w] for w in near[v][0] + near[v][1]], y[v]) for v in row]
            y.update(zip(row, _spread(row, wanted), strict=True))
    return y


def _mean(values: list[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _crossings(rows: list[list], near: dict) -> int:
    """How many pairs of edges between neighbouring layers cross."""
    count = 0
    for row, after in itertools.pairwise(rows):
        position = {node: i for i, node in enumerate(after)}
        ends = np.array([(i, position[b]) for i, a in enumerate(row) for b in near[a][1]])
        if len(ends):
            a, b = ends[:, 0], ends[:, 1]
            count += int(((a[:, None] < a) & (b[:, None] > b)).sum())
    return count


def _spread(row: list, wanted: list[float]) -> list[float]:
    """Heights closest to the wanted ones (least squares) that keep the order of the nodes and their distances."""
    heights = [VIRTUAL_ROW if isinstance(node, tuple) else ROW for node in row]
    offset = np.cumsum([0.0, *((a + b) / 2 for a, b in itertools.pairwise(heights))])
    return (isotonic_regression(np.array(wanted) - offset).x + offset).tolist()


def _draw_edge(axes, place: dict, source: int, target: int, points: list, needed: bool) -> None:
    (x0, y0), (x1, y1) = place[source], place[target]
    through = [(x0 + BOX[0] / 2, y0)]
    for x, y in points:  # straight past the boxes of a layer
        through += [(x - BOX[0] / 2, y), (x + BOX[0] / 2, y)]
    through.append((x1 - BOX[0] / 2 - 0.03, y1))
    vertices, codes = [through[0]], [Curve.MOVETO]
    for (xa, ya), (xb, yb) in itertools.pairwise(through):
        bend = (xb - xa) / 2
        vertices += [(xa + bend, ya), (xb - bend, yb), (xb, yb)]
        codes += [Curve.CURVE4] * 3
    colour = "#4c5a67" if needed else "#ccd2d8"
    style = {"arrowstyle": "-|>", "mutation_scale": 8, "lw": 1.25 if needed else 0.9, "color": colour}
    style |= {"zorder": 2 if needed else 1, "shrinkA": 0, "shrinkB": 0}
    axes.add_patch(FancyArrowPatch(path=Curve(vertices, codes), **style))


def _draw_box(axes, problem: Problems, slot: int, kind: str, at: tuple, world: World, names, step: int | None) -> None:
    (x, y), (width, height) = at, BOX
    query = slot == problem.query[0]
    fill, edge = FILL[kind]
    rounding = "round,pad=0,rounding_size=" + ("0.05" if slot < INSTANCES else "0.28")
    style = {"ls": (0, (4, 2)) if kind == "unneeded" else "-", "lw": 2.4 if query else 1.2, "zorder": 3}
    style |= {"boxstyle": rounding, "fc": fill, "ec": INK if query else edge}
    axes.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, **style))
    owner, thing = (world.vocabulary[int(n)].strip() for n in names)
    value = int(problem.value[0, slot])
    ink = INK if kind != "unneeded" else "#7a8591"
    for text, dy in ((owner + world.possessive, LINE_HEIGHT), (thing, -LINE_HEIGHT)):
        size = min(7.6, 7.6 * 22 / max(len(text), 1))
        axes.text(x - width / 2 + 0.12, y + dy, text, fontsize=size, color=ink, va="center", ha="left", zorder=4)
    missing = slot == problem.scalars[0, MISSING]
    text, size = (str(value), 11) if value >= 0 else ("not\ngiven", 7) if missing else ("?", 11)
    axes.text(x + width / 2 - 0.1, y, text, fontsize=size, color=ink, va="center", ha="right", weight="bold", zorder=4)
    if step is not None:
        centre = (x - width / 2 + 0.02, y + height / 2 - 0.02)
        axes.add_patch(Circle(centre, 0.115, fc=INK if query else edge, ec="white", lw=0.9, zorder=5))
        axes.text(*centre, str(step), fontsize=6.6, color="white", va="center_baseline", ha="center", zorder=6)


def _draw_title(axes, problem: Problems, world: World, at: tuple[float, float]) -> None:
    owner, thing = problem.slot_names()[0][int(problem.query[0])]
    ids = [*world.phrases[[HOW_MANY]], thing, *world.phrases[[DOES]], owner, *world.phrases[[HAVE]]]
    question = world.decode([i for i in ids if i >= 0]).strip()
    answer = int(problem.answer[0])
    text = f"{question}  {answer if answer >= 0 else 'undetermined'}"
    axes.text(*at, text, fontsize=11, color=INK, va="center", ha="left", weight="bold")
    ops, sentences = int(problem.ops[0]), int(problem.scalars[0, N_SENTENCES])
    counts = f"{ops} operation{'s' * (ops != 1)}, {sentences} sentence{'s' * (sentences != 1)}, modulo {world.modulus}"
    axes.text(at[0], at[1] - 0.23, counts, fontsize=8, color="#5b6875", va="center", ha="left")


def _draw_legend(axes, at: tuple[float, float], kinds: set[str]) -> None:
    words = {
        "instance": "given by a sentence", "abstract": "a total (no sentence)", "undetermined": "cannot be known",
        "unneeded": "not needed", "query": "the question",
    }  # fmt: skip
    x, y = at
    for kind, text in words.items():
        if kind not in kinds and kind != "query":
            continue
        fill, edge = FILL.get(kind, ("white", INK))
        shape = "round,pad=0,rounding_size=" + ("0.08" if kind == "abstract" else "0.02")
        style = {"ls": (0, (3, 1.5)) if kind == "unneeded" else "-", "lw": 2.2 if kind == "query" else 1.1}
        axes.add_patch(FancyBboxPatch((x, y - 0.08), 0.3, 0.16, boxstyle=shape, fc=fill, ec=edge, **style))
        axes.text(x + 0.38, y, text, fontsize=7.5, color=INK, va="center")
        x += 0.62 + 0.062 * len(text)
    axes.add_patch(Circle((x + 0.08, y), 0.09, fc=FILL["instance"][1], ec="white"))
    axes.text(x + 0.25, y, "step of the solution", fontsize=7.5, color=INK, va="center")
