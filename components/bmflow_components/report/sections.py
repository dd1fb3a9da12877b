"""The parts of the page, top to bottom; each gives nothing when there is nothing to show."""

from __future__ import annotations

import base64
import itertools
import math
from collections.abc import Sequence

from bmflow_components.report import charts
from bmflow_components.report.charts import Axes, Line, Point
from bmflow_components.report.data import Accuracy, Candidate, Group, Histogram, Layer, Pair, RunReport
from bmflow_components.report.markup import bar, change, chip, number, pairs, section, size, table, text, tile

_MOST_CURVES, _MOST_HISTOGRAMS = 12, 6
_OPEN_LAYERS, _WORST_LAYERS = 40, 10
"""A longer list of layers is folded; the worst ones stay in sight."""
_RECALLS = [k / 100 for k in range(101)]


def header(report: RunReport) -> str:
    """Title and facts."""
    facts = dict(report.facts) | ({"made": report.created} if report.created else {})
    links = "".join(f' <a href="{text(address)}">{text(label)}</a>' for label, address in report.links.items() if _is_web(address))
    below = f'<p class="note">{links}</p>' if links else ""
    return f"<header><h1>{text(report.title)}</h1>{pairs(facts)}{below}</header>\n"


def verdict(report: RunReport, group: Group) -> str:
    """Passed or not, why, and the four figures that matter."""
    tone, word = {True: ("pass", "✓ PASSED"), False: ("fail", "✗ NOT PASSED"), None: ("wait", "NO VERDICT")}[group.passed]
    word += f" · {text(group.processor)}" if len(report.groups) > 1 else ""
    reasons = "".join(f"<li>{text(reason)}</li>" for reason in group.reasons)
    return (
        f'<section class="verdict {tone}"><div class="word">{word}</div><div class="headline">{text(group.headline)}</div>'
        f"{f'<ul>{reasons}</ul>' if reasons else ''}{_tiles(report, group)}</section>\n"
    )


def _tiles(report: RunReport, group: Group) -> str:
    chosen = group.chosen
    if chosen is None:
        return ""
    before, after, cost = report.reference, chosen.accuracy, chosen.cost
    tiles: list[str] = []
    if after:
        for label, name in (("mAP50-95", "map"), ("mAP50", "map50")):
            reference = getattr(before, name) if before else None
            under = f"{change(getattr(after, name) - reference)} against float {number(reference)}" if reference is not None else ""
            tiles.append(tile(label, number(getattr(after, name)), under))
    if cost.milliseconds is not None:
        tiles.append(tile("estimated time", f"{number(cost.milliseconds, 2)} ms", "one inference, rates assumed"))
    tiles.append(tile("size", size(cost.size_bytes), text(chosen.name)))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def failures(report: RunReport) -> str:
    """What did not end well."""
    body = "".join(f"<h3>{text(stage)}</h3><pre>{text(error)}</pre>" for stage, error in report.failures)
    return section("What went wrong", body, "", "steps")


def duel(report: RunReport, group: Group) -> str:
    """Champion and challenger side by side."""
    champion, challenger = group.champion, group.chosen
    if champion is None or challenger is None:
        return ""
    rows: list[list[str]] = []
    for label, name in (("mAP50-95", "map"), ("mAP50", "map50"), ("mAP75", "map75")):
        old, new, base = (getattr(a, name) if a else None for a in (champion.accuracy, challenger.accuracy, report.reference))
        rows.append([label, number(base), number(old), number(new), change(new - old) if old is not None and new is not None else ""])
    old_cost, new_cost = champion.cost, challenger.cost
    for label, name, digits in (("estimated time, ms", "milliseconds", 3), ("cycles", "cycles", 0)):
        old, new = getattr(old_cost, name), getattr(new_cost, name)
        if old is not None or new is not None:
            rows.append([label, "", number(old, digits), number(new, digits), _relative(old, new)])
    rows.append(["size", "", size(old_cost.size_bytes), size(new_cost.size_bytes), _relative(old_cost.size_bytes, new_cost.size_bytes)])
    head = ["", "#float", f"#champion: {champion.name}", f"#challenger: {challenger.name}", "#change"]
    note = "Measured on the same pictures in this run." + (
        f" The champion has been in place since {champion.since}." if champion.since else ""
    )
    return section(_titled("Champion and challenger", report, group), table(head, rows), note)


def candidates(report: RunReport, group: Group) -> str:
    """Every bmodel of the run: verdict, accuracy, time, size, traffic."""
    if not group.candidates:
        return ""
    slowest = max((c.cost.milliseconds or 0 for c in group.candidates), default=0)
    largest = max(c.cost.size_bytes for c in group.candidates)
    rows = [_candidate(c, report.reference, slowest, largest) for c in group.candidates]
    head = ["candidate", "gate", "#mAP50-95", "#change", "#ms", "", "#cycles", "#DDR", "#size", ""]
    notes = "".join(
        f'<p class="reason"><b>{text(c.name)}</b>: {text("; ".join(c.reasons))}</p>' for c in group.candidates if c.reasons
    )  # fmt: skip
    about = "Time, cycles and traffic are estimates from assumed rates, made from the commands in the file; change is against the float network."
    return section(_titled("Candidates", report, group), table(head, rows) + notes + _trade(report, group), about)


def _candidate(c: Candidate, reference: Accuracy | None, slowest: float, largest: int) -> list[str]:
    state = {True: chip("passed", "pass"), False: chip("failed", "fail"), None: chip("not judged", "plain")}[c.passed]
    taken = " " + chip("taken", "pass") if c.chosen else ""
    drop = c.accuracy.map - reference.map if c.accuracy and reference else None
    return [
        f"<b>{text(c.name)}</b>", state + taken, number(c.accuracy.map if c.accuracy else None), change(drop), number(c.cost.milliseconds, 2),
        bar((c.cost.milliseconds or 0) / slowest if slowest else 0, "challenger" if c.chosen else "plain"), number(c.cost.cycles, 0),
        size(c.cost.ddr_bytes), size(c.cost.size_bytes), bar(c.cost.size_bytes / largest if largest else 0, "challenger" if c.chosen else "plain"),
    ]  # fmt: skip


def _trade(report: RunReport, group: Group) -> str:
    """Accuracy over time, when there is more than one point."""
    points = [
        Point(c.name, c.cost.milliseconds, c.accuracy.map, "challenger" if c.chosen else "plain")
        for c in group.candidates
        if c.accuracy and c.cost.milliseconds is not None
    ]
    champion = group.champion
    if champion and champion.accuracy and champion.cost.milliseconds is not None:
        points.append(Point(f"champion {champion.name}", champion.cost.milliseconds, champion.accuracy.map, "champion"))
    if len(points) < 2:
        return ""
    floor = ("float network", report.reference.map) if report.reference else None
    heights = [p.y for p in points] + ([floor[1]] if floor else [])
    axes = Axes(charts.around([p.x for p in points], 0.25), charts.around(heights, 0.25), 620, 250)
    drawn = charts.scatter("Accuracy and time", points, axes, "estimated time of one inference, ms", "mAP50-95", floor)
    return f'<div class="wide">{drawn}</div>'


def classes(report: RunReport, group: Group) -> str:
    """mAP by class, float and chosen candidate, largest loss first."""
    chosen, reference = group.chosen, report.reference
    after = chosen.accuracy.per_class if chosen and chosen.accuracy else {}
    before = reference.per_class if reference else {}
    names = sorted({*before, *after}, key=lambda name: after.get(name, 0.0) - before.get(name, 0.0) if name in before else 0.0)
    rows = []
    for name in names:
        base, now = before.get(name), after.get(name)
        both = f'<div class="double">{bar(base or 0, "float", "float")}{bar(now or 0, "challenger", "bmodel")}</div>'
        rows.append([text(name), number(base), number(now), change(now - base) if base is not None and now is not None else "", both])
    if not rows:
        return ""
    body = _key(("float", "float network"), ("challenger", chosen.name if chosen else "")) + table(
        ["class", "#float", f"#{chosen.quantize if chosen else ''}", "#change", "mAP50-95 (full width is 1)"], rows
    )
    return section(_titled("Accuracy by class", report, group), body, "Classes with the largest loss first.")


def curves(report: RunReport, group: Group) -> str:
    """Precision over recall by class at IoU .50, the worst classes when there are many."""
    chosen = group.chosen.accuracy if group.chosen else None
    sides = [(side, tone) for side, tone in ((report.reference, "float"), (chosen, "challenger")) if side and side.curves]
    if not sides:
        return ""
    last = sides[-1][0].per_class
    names = sorted({name for side, _ in sides for name in side.curves}, key=lambda name: last.get(name, 0.0))[:_MOST_CURVES]
    drawn = [
        charts.line_chart(
            name, [Line(tone, _RECALLS, side.curves[name], tone) for side, tone in sides if name in side.curves],
            Axes((0.0, 1.0), (0.0, 1.0), 300, 200), "recall", "precision",
        )
        for name in names
    ]  # fmt: skip
    key = _key(("float", "float network"), ("challenger", group.chosen.name if group.chosen else ""))
    note = (
        f"At IoU .50, {'the ' + str(_MOST_CURVES) + ' classes with the lowest mAP' if len(names) == _MOST_CURVES else 'lowest mAP first'}."
    )
    return section(_titled("Precision and recall", report, group), f'{key}<div class="charts">{"".join(drawn)}</div>', note)


def similarity(report: RunReport, group: Group) -> str:
    """Layers of each candidate against the float network, the ones kept in float marked; the chosen one in full."""
    compared = _chosen_first(group, [c for c in group.candidates if c.layers])
    bounds = ("below .9", ".9", ".95", ".99", ".999", ".9999")
    key = _key(*((f"q{k}", label) for k, label in enumerate(bounds)), ("kept", "computed in float"))
    body = "".join(_similar(candidate, candidate is group.chosen) for candidate in compared)
    note = "Cosine similarity of each layer to the float network, in the order of the network."
    return section(_titled("Similarity by layer", report, group), key + body if body else "", note)


def _similar(candidate: Candidate, whole: bool) -> str:
    layers = candidate.layers
    kept = sum(layer.is_float for layer in layers)
    body = f"<h3>{text(candidate.name)}: {kept} of {len(layers)} layers in float</h3>{charts.strip(layers)}"
    if whole and len(layers) <= _OPEN_LAYERS:
        return body + _layers(layers)
    if whole:
        body += _layers(sorted(layers, key=lambda layer: layer.cosine)[:_WORST_LAYERS])
    return f"{body}<details><summary>All {len(layers)} layers in order</summary>{_layers(layers)}</details>"


def _layers(layers: Sequence[Layer]) -> str:
    rows = [
        [
            f'<span class="mono">{text(layer.name)}</span>', text(layer.op),
            chip(layer.mode, "kept" if layer.is_float else "plain") + (f' <span class="reason">{text(layer.reason)}</span>' if layer.reason else ""),
            f"{layer.cosine:.6f}", number(layer.euclid, 4), number(layer.sqnr_db, 1),
            bar(charts.nearness(layer.cosine), f"q{charts.quality(layer.cosine)}"),
        ]
        for layer in layers
    ]  # fmt: skip
    return table(["layer", "op", "type", "#cosine", "#Euclid", "#SQNR, dB", "nines of the cosine"], rows, "layers")


def detections(report: RunReport, group: Group) -> str:
    """Float and compiled network on the pictures where they differ most; the chosen candidate's open, the others' folded."""
    body = ""
    for candidate in _chosen_first(group, [c for c in group.candidates if c.pairs]):
        shown = "".join(_pair(pair, candidate.name) for pair in candidate.pairs)
        if candidate is group.chosen:
            body += shown
        else:
            body += f"<details><summary>{text(candidate.name)}: {len(candidate.pairs)} pictures</summary>{shown}</details>"
    return section(
        _titled("Where they differ most", report, group), body, "The same pictures through the float network (left) and the compiled one (right)."
    )  # fmt: skip


def _pair(pair: Pair, right: str) -> str:
    sides = _side(pair, "float network", pair.left) + _side(pair, right, pair.right)
    return f'<div class="pair"><div class="name"><b>{text(pair.name)}</b> {text(pair.note)}</div>{sides}</div>'


def _side(pair: Pair, label: str, jpeg: bytes) -> str:
    source = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
    return f'<figure><figcaption>{text(label)}</figcaption><img alt="{text(pair.name)}, {text(label)}" src="{source}"></figure>'


def training(report: RunReport) -> str:
    """Values by epoch; those that share a beginning (`loss/box`, `loss/class`) keep their own scales."""
    drawn = [
        charts.line_chart(
            name, [Line(name, range(1, len(values) + 1), values, "challenger")],
            Axes((1.0, float(max(2, len(values)))), charts.around(values), 300, 190), "epoch", "",
        )
        for name, values in report.training.items()
        if len(values) > 1
    ]  # fmt: skip
    return section("Training", f'<div class="charts">{"".join(drawn)}</div>' if drawn else "")


def calibration(report: RunReport) -> str:
    """The tensors of which calibration cuts off most."""
    cut = sorted((h for h in report.histograms if h.beyond > 0), key=lambda h: -h.beyond)[:_MOST_HISTOGRAMS]
    drawn = "".join(_histogram(item) for item in cut)
    key = _key(("challenger", "values of the calibration pictures"), ("float", "threshold: the largest value that 8 bits hold"))
    note = "Absolute values, zeros left out; the tensors of which the threshold cuts off the largest share."
    return section("Calibration", f'{key}<div class="charts">{drawn}</div>' if drawn else "", note)


def _histogram(item: Histogram) -> str:
    heights = [math.log10(1 + count) for count in item.counts]
    top = max(heights)
    edges = [k * item.width for k in range(len(heights) + 1)]
    lines = [
        Line("values", [x for edge in itertools.pairwise(edges) for x in edge], [y for y in heights for _ in range(2)], "challenger"),
        Line("threshold", [item.threshold] * 2, [0.0, top], "float"),
    ]  # fmt: skip
    title = f"{item.name} ({item.op}): {100 * item.beyond:.2g} % beyond"
    return charts.line_chart(
        title, lines, Axes((0.0, max(edges[-1], item.threshold)), (0.0, top * 1.05), 300, 190), "|x|", "log10 of count"
    )


def provenance(report: RunReport) -> str:
    """Digests and versions."""
    body = pairs(report.digests, "digests")
    if report.versions:
        body += f"<h3>Versions</h3>{pairs(report.versions, 'digests')}"
    return section("Digests and versions", body, "SHA-256 unless the name says otherwise.")


def steps(report: RunReport) -> str:
    """The commands that do it again."""
    body = "".join(
        f"<h3>{text(step.stage)}{'' if step.seconds is None else f' · {step.seconds:.1f} s'}</h3><pre>{text(step.command)}</pre>"
        for step in report.steps
    )
    return section("How to do it again", body, "From the folder of the run, one stage at a time.", "steps")


def _titled(title: str, report: RunReport, group: Group) -> str:
    return f"{title}: {group.processor}" if len(report.groups) > 1 else title


def _chosen_first(group: Group, candidates: Sequence[Candidate]) -> list[Candidate]:
    return sorted(candidates, key=lambda candidate: candidate is not group.chosen)


def _key(*entries: tuple[str, str]) -> str:
    return '<div class="key">' + "".join(f'<span><i class="{tone}"></i>{text(label)}</span>' for tone, label in entries) + "</div>"


def _relative(old: float | None, new: float | None) -> str:
    return change(100 * (new - old) / old, " %", -1, 1) if old and new is not None else ""


def _is_web(address: str) -> bool:
    return address.startswith(("https://", "http://", "#"))
