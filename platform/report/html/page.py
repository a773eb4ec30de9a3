"""The report of a study: one HTML file that needs nothing but a browser, also kept in the study's MLflow run."""

from __future__ import annotations

import itertools
import math
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml

from equipoise.data.importers import command_for
from equipoise.platform.analysis.effects import MEANINGS, Effect, alias_text
from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.report.html.charts import groups, marker, outside, pair
from equipoise.platform.report.html.content import (
    ALONE,
    SINGLE,
    UNCLEAR,
    UNKNOWN,
    Content,
    ReportError,
    difference_in_words,
    gather,
)
from equipoise.platform.report.html.features import Pictures, feature_pictures
from equipoise.platform.report.html.lines import (
    bars,
    curves,
    gains_for_cost,
    line_styles,
    parallel,
    swatch,
    volume_for_cost,
)
from equipoise.platform.report.plots.style import axis_title
from equipoise.platform.settings.files import shipped
from equipoise.platform.settings.study import SweepDefinition
from equipoise.platform.stats.selection import RankedVariant
from equipoise.platform.stats.uncertainty import FEW_SEEDS, Difference

NAME = "report.html"
FOLDER = Path(__file__).parent / "assets"
SECTIONS = {
    "asked": "What was asked",
    "front": "The front",
    "candidate": "The leading candidate",
    "table": "All variants",
    "importance": "Which objectives matter",
    "conflict": "Which objectives pull against each other",
    "curves": "Learning curves",
    "features": "What the encoders see",
    "cost": "What it cost",
    "repeat": "Repeat it",
}
LEGEND = {
    "candidate": "leading candidate, not confirmed",
    "front": "on the front over all benchmarks",
    "rest": "dominated",
    "baseline": "baseline (control)",
    "random_init": "never trained (control)",
    "untrained": "scored an untrained encoder (flagged)",
}
KINDS = {"sweep": "a search over objective weights", "ablation": "named mixes", "confirmation": "a confirmation"}
CURVES = {"jepa": "JEPA loss", "effective_rank": "effective rank of the target"}


@dataclass(frozen=True)
class WrittenReport:
    """A report that was written.

    Attributes:
        path: the file.
        content: what it says.
        pictures: its pictures of features.
    """

    path: Path
    content: Content
    pictures: Pictures

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record: the path, and what the page holds."""
        found = self.content
        holds: dict[str, Any] = {
            "trials": len(found.trials),
            "variants": len(found.selection.rows),
            "differences": len(found.differences),
            "importances": len(found.importance),
            "conflict_matrices": len(found.audits),
            "learning_curves": {metric: len(lines) for metric, lines in found.curves.items()},
            "feature_pictures": len(self.pictures.pictures),
        }
        missing = {key: list(said) for key, said in found.notes.items() if said}
        if self.pictures.note:
            missing["features"] = [self.pictures.note]
        return {
            "study": found.study,
            "mlflow_run": found.parent,
            "report": str(self.path),
            "candidate": found.selection.candidate.variant if found.selection.candidate else None,
            "sections": list(SECTIONS),
            "holds": holds,
            "cost": None if found.spending is None else found.spending.to_dict(),
            "missing": missing,
        }


def write_report(record: StudyRecord, out: Path | None = None, tolerance: float | None = None) -> WrittenReport:
    """Write the report of a study and log it to the study's MLflow run as ``report.html``.

    Args:
        record: of the study.
        out: the file, ending in .html; None for the study's folder, or this one where that is elsewhere.
        tolerance: points a candidate may lose on a benchmark; None for the noise floor.

    Raises:
        ReportError: a study without scores, or an ``out`` that is no .html.
        EquipoiseError: whatever its record cannot give.
    """
    if out is not None and out.suffix.lower() not in (".html", ".htm"):
        raise ReportError(f"a report is one HTML file; {out.name!r} was given: name it {out.stem}.html")
    content = gather(record, tolerance)
    pictures = _pictures(content, record)
    path = record.picture(out, NAME)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(content, pictures), encoding="utf-8")
    with tempfile.TemporaryDirectory() as temporary:
        record.keep(Path(shutil.copy(path, Path(temporary) / NAME)))
    return WrittenReport(path.resolve(), content, pictures)


def _pictures(content: Content, record: StudyRecord) -> Pictures:
    found = content.selection
    beside = found.candidate.variant if found.candidate else next((r.variant for r in found.rows if r.eligible), None)
    if beside is None:
        return Pictures(note=f"There are no pictures of features: nothing was trained besides {found.baseline}.")
    return feature_pictures(record, (found.baseline, beside))


def page(content: Content, pictures: Pictures) -> str:
    """The page as one HTML document that loads nothing."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"signed": _signed, "short": _short, "clock": _clock}
    kinds = groups(content.selection)
    styles = line_styles(_variants(content), _prominent(content))
    drawn = {t.variant for t in content.trials if any(content.name_of(t) in lines for lines in content.curves.values())}
    return environment.get_template("page.html.j2").render(
        c=content,
        s=content.selection,
        sections=SECTIONS,
        css=(FOLDER / "style.css").read_text(encoding="utf-8"),
        script=(FOLDER / "script.js").read_text(encoding="utf-8"),
        answer=content.confirmation.sentences[0] if content.confirmation else content.selection.sentence,
        kind=KINDS.get(content.kind, content.kind),
        began=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(content.began / 1000)),
        statuses=_statuses(content),
        pairs=[
            pair(content.selection, content.means, a, b)
            for a, b in itertools.combinations(content.selection.benchmarks, 2)
        ],
        parallel=parallel(content.selection, content.differences),
        legend=[(marker(g), words) for g, words in LEGEND.items() if g in kinds.values()],
        kinds=kinds,
        outside=outside(content.selection),
        chance=_chance(content),
        why=_why(content),
        rows=[_row(content, row) for row in content.selection.rows],
        controls=_controls(content),
        titles={b: axis_title(b, content.selection.part) for b in content.selection.benchmarks},
        importance=[(b, bars(found), found) for b, found in _by_benchmark(content).items()],
        effects=_effects(content),
        meanings=MEANINGS,
        audits=sorted(content.audits, key=lambda a: a["variant"] != _chosen(content)),
        curves=_curves(content, styles),
        styles=[(n, swatch(style)) for n, style in styles.items() if style != "other" and n in drawn],
        others=sum(style == "other" and name in drawn for name, style in styles.items()),
        p=pictures,
        cost=_cost(content),
        for_cost=_for_cost(content),
        repeat=_repeat(content, pictures),
    )


def _chosen(content: Content) -> str | None:
    return content.selection.candidate.variant if content.selection.candidate else None


def _variants(content: Content) -> list[str]:
    """Every variant with a trial, those of the table in its order first."""
    return list(dict.fromkeys([*(r.variant for r in content.selection.rows), *(t.variant for t in content.trials)]))


def _prominent(content: Content) -> list[str]:
    s = content.selection
    return [*([_chosen(content) or s.baseline]), s.baseline, *s.front]


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")  # a minus as wide as the plus


def _short(value: float) -> str:
    return f"{value:.3g}"


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _statuses(content: Content) -> str:
    counts: dict[str, int] = {}
    for trial in content.trials:
        counts[trial.status] = counts.get(trial.status, 0) + 1
    return ", ".join(f"{n} {status}" for status, n in counts.items())


def _controls(content: Content) -> list[str]:
    s = content.selection
    there = {row.variant for row in s.rows}
    return [name for name in (s.baseline, s.random_init) if name in there]


def _row(content: Content, row: RankedVariant) -> dict[str, Any]:
    """One row of the table of variants."""
    benchmarks = {}
    for b in content.selection.benchmarks:
        against: dict[str, dict[str, Any] | None] = {}
        for control in _controls(content):
            found = content.differences.get((row.variant, control, b))
            against[control] = None if found is None else _compared(found)
        low, high = content.means[row.variant, b]
        known = math.isfinite(low)
        benchmarks[b] = {"mean": row.means[b], "low": low, "high": high, "known": known, "against": against}
    return {"row": row, "weights": content.weights.get(row.variant, {}), "benchmarks": benchmarks}


def _compared(d: Difference) -> dict[str, Any]:
    known = math.isfinite(d.low)
    verdict = difference_in_words(d)
    return {
        "d": d,
        "known": known,
        "verdict": verdict,
        "kind": verdict if verdict in ("better", "worse") else "unclear",
    }


def _why(content: Content) -> list[str]:
    """How the leading candidate was found, and what speaks against it, one sentence each."""
    s = content.selection
    floor = all(s.tolerance[b] == s.noise_floor[b] for b in s.benchmarks)
    limits = ", ".join(f"{b} {v:.2f}" for b, v in s.tolerance.items())
    eligible = [row for row in s.rows if row.eligible]
    admitted = [row for row in eligible if row.admissible]
    source = "the noise floor" if floor else "as given"
    said = [
        f"Tolerance ({source}): {limits} points. {len(admitted)} of {len(eligible)} trained variants lose at most that "
        f"on every benchmark."
    ]
    if s.candidate is None:
        return said
    said.append(f"Of these, {s.candidate.variant} has the largest smallest gain: {_least(s.row(s.candidate.variant))}.")
    if len(admitted) > 1:
        said.append(f"Next comes {admitted[1].variant} with {_least(admitted[1])}.")
    row = s.row(s.candidate.variant)
    known = {b: bound for b, bound in row.at_least.items() if bound is not None}
    if known:
        bounds = ", ".join(f"{b} {bound:+.2f}" for b, bound in known.items())
        said.append(f"With all {s.launched} mixes counted, its gains are at least (one-sided, 5 %): {bounds} points.")
    if row.rank > 0:
        said.append("It is not on the front: another variant is at least as good on every benchmark.")
    if row.front_probability is not None:
        said.append(f"It is truly on the front with a probability of {row.front_probability:.0%}.")
    return said


def _least(row: RankedVariant) -> str:
    """The smallest gain of a row, in noise floors where there are any."""
    if row.smallest_gain is None:
        return f"{row.smallest_points:+.2f} points"
    return f"{row.smallest_gain:+.2f} noise floors ({row.smallest_points:+.2f} points)"


def _chance(content: Content) -> str | None:
    """Whether the leading candidate's differences to the baseline are more than chance, in a sentence."""
    s = content.selection
    if s.candidate is None:
        return None
    grouped: dict[str, list[str]] = {}
    for benchmark in s.benchmarks:
        verdict = difference_in_words(content.differences[s.candidate.variant, s.baseline, benchmark])
        grouped.setdefault(verdict, []).append(benchmark)
    words = {
        SINGLE: "one seed cannot tell on {}",
        UNKNOWN: "neither seeds nor test items are known to tell on {}",
        FEW_SEEDS: FEW_SEEDS + " on {}",
        ALONE: "clear alone and not among all comparisons on {}",
        UNCLEAR: "not distinguishable from " + s.baseline + " on {}",
        "better": "better on {}",
        "worse": "worse on {}",
    }
    said = "; ".join(words[verdict].format(", ".join(names)) for verdict, names in grouped.items())
    return f"Is that more than chance? {said[0].upper()}{said[1:]}."


def _by_benchmark(content: Content) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for one in content.importance:
        found.setdefault(one.benchmark, []).append(one)
    return found


def _effects(content: Content) -> list[tuple[str, str, dict[str, Effect]]]:
    """Effects of a design: name, what is confounded with it, and the effect by benchmark."""
    if content.effects is None:
        return []
    by_name: dict[str, dict[str, Effect]] = {}
    for effect in content.effects.effects:
        by_name.setdefault(effect.name, {})[effect.benchmark] = effect
    return [(name, alias_text(next(iter(on.values())).aliases), on) for name, on in by_name.items()]


def _curves(content: Content, styles: Mapping[str, str]) -> list[str]:
    variants = {content.name_of(t): t.variant for t in content.trials}
    drawn = []
    for metric, title in CURVES.items():
        lines = [(n, variants[n], points) for n, points in content.curves[metric].items() if n in variants and points]
        if lines:
            drawn.append(curves(lines, styles, title))
    return drawn


def _cost(content: Content) -> dict[str, Any]:
    """Device hours in all and by variant."""
    by_variant: dict[str, list[float]] = {}
    for trial in content.trials:
        if trial.hours is not None:
            by_variant.setdefault(trial.variant, []).append(trial.hours)
    total = math.fsum(h for hours in by_variant.values() for h in hours)
    lost = math.fsum(t.hours or 0.0 for t in content.trials if t.status != "finished")
    return {"total": total, "lost": lost, "by_variant": {v: (len(h), math.fsum(h)) for v, h in by_variant.items()}}


def _for_cost(content: Content) -> list[str]:
    """What was gained against what was spent."""
    spent = content.spending
    return [] if spent is None else [volume_for_cost(spent), gains_for_cost(spent, content.selection)]


def _repeat(content: Content, pictures: Pictures) -> dict[str, Any]:
    """Files and commands that ask for the same study on another machine."""
    definition = dict(content.definition)
    files: dict[str, str] = {}
    for key, folder in (("preset", "presets"), ("regime", "regimes")):
        if definition.get(key) not in shipped(folder) and key in content.settings:
            # A path of the machine it ran on means nothing elsewhere: its content goes along.
            files[f"{key}.yaml"] = _yaml(content.settings[key])
            definition[key] = f"{key}.yaml"
    if "confirms" in definition:
        # Its mixes are in it, so that they can be run again without the search they come from.
        definition = {k: v for k, v in definition.items() if k not in ("confirms", "top", "mixes")}
        definition["custom"] = content.definition["mixes"]
    command = "sweep" if set(definition) & set(SweepDefinition.model_fields) >= {"objectives", "trials"} else "ablate"
    name = f"{content.study}.yaml"
    sources = content.settings.get("regime", {})
    manifests = [s["manifest"] for s in sources.get("sources", {}).values()]
    manifests += [
        m for b in sources.get("benchmarks", {}).values() for m in (b["train"], b.get("select"), b["test"]) if m
    ]
    lines = [*dict.fromkeys(map(command_for, manifests))]
    lines += [f"equipoise {command} {name}", f"equipoise report {content.study}"]
    record = pictures.record or {}
    return {
        "files": {name: _yaml(definition), **files},
        "commands": "\n".join(lines),
        "commit": content.tags.get("git_commit", "not recorded"),
        "versions": record.get("versions", {}),
        "manifests": record.get("manifests", {}),
        "needed": list(dict.fromkeys(manifests)),
    }


def _yaml(content: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(content), sort_keys=False, width=100, allow_unicode=True)
