"""What the studies of record found, as the tables of ``docs/reference_study.md``.

    python bench/reference_study.py                # write the tables and pictures of the page anew
    python bench/reference_study.py --print        # print them

Every table stands in the page between ``<!-- NAME -->`` and ``<!-- end -->``; a test compares them with the bundles.
"""

from __future__ import annotations

import argparse
import math
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from equipoise.platform.analysis.claims.evidence import from_csv, from_studies
from equipoise.platform.analysis.claims.judge import judge_claims
from equipoise.platform.analysis.claims.vocabulary import load_claims
from equipoise.platform.analysis.confirmation import confirmation_of
from equipoise.platform.analysis.differences import against, differences, noise_of
from equipoise.platform.analysis.effects import Effect, effects_of
from equipoise.platform.analysis.spending import spending
from equipoise.platform.record.openings import openings_of
from equipoise.platform.record.reading import StudyRecord
from equipoise.platform.report.front import conclude_study
from equipoise.platform.settings.study import load_ablation
from equipoise.platform.settings.variant import BASELINE
from equipoise.platform.stats.published import published_path
from equipoise.platform.stats.uncertainty import Difference, compare, holm
from equipoise.platform.study.bundling import open_bundle, references

ROOT = Path(__file__).resolve().parents[1]
PAGE, README = ROOT / "docs" / "reference_study.md", ROOT / "README.md"
HEADLINE = "fwm_hw_ld"  # what the paper is about
SHORT = "short miniature"  # a table that the README has, and the page has whole
ABLATIONS = ("miniature", "miniature_single", "miniature_synthetic")
MIXED, SYNTHETIC, SEARCH = "miniature", "miniature_synthetic", "search"
CONFIRMED = ("miniature_confirmation", "search_confirmation")
RANDOM_INIT = "random_init"
PLANNED = tuple(f"reference_{part}" for part in ABLATIONS)
SEARCHED = "reference_search"
Tables = dict[str, str]


def shown(difference: Difference | Effect) -> str:
    """A difference with its interval; an asterisk where it is more than chance."""
    star = "*" if difference.distinguishable else ""
    if math.isnan(difference.low):
        return f"{difference.estimate:+.1f}{star}"
    return f"{difference.estimate:+.1f}{star} [{difference.low:+.1f}, {difference.high:+.1f}]"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; numbers to the right."""
    marks = ["---", *("---:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, marks, *rows))


def results(record: StudyRecord, *, short: bool = False) -> str:
    """Accuracy and difference from the baseline of every variant, the largest smallest gain first.

    The short table has what is on the front, the paper's headline and the controls.
    """
    table, selection, found = record.table, record.select(), differences(record)
    rows = []
    for row in selection.rows:
        if short and row.variant not in (*selection.front, HEADLINE, BASELINE, RANDOM_INIT):
            continue
        cells = [f"`{row.variant}`", str(len(row.seeds))]
        for b in table.benchmarks:
            difference = found.get((row.variant, b))
            cells.append(f"{row.means[b]:.1f}" + ("" if difference is None else f"; {shown(difference)}"))
        rows.append(cells)
    return markdown(["variant", "seeds", *table.benchmarks], rows)


def controls(records: Mapping[str, StudyRecord]) -> str:
    """What training without auxiliary objectives, and each variant alone, has over the untrained encoder."""
    rows = []
    benchmarks: tuple[str, ...] = ()
    for name, record in records.items():
        table, benchmarks = record.table, record.table.benchmarks
        trained = [v for v in table.variants if v != RANDOM_INIT]
        found = against(RANDOM_INIT, trained, benchmarks, record.samples, noise_of(record))
        above = [v for v in trained if all((d := found[v, b]).distinguishable and d.estimate > 0 for b in benchmarks)]
        rows.append([f"`{name}`", *(shown(found[BASELINE, b]) for b in benchmarks), _listed(above)])
    return markdown(["regime", *benchmarks, "above the untrained encoder on all"], rows)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def account(records: Mapping[str, StudyRecord]) -> str:
    """What was run: trials, seeds, hours, when test items were opened."""
    rows = []
    for name, record in records.items():
        ended = [run.data.tags.get("status", "") for run in record.trials]
        counts = ", ".join(f"{ended.count(s)} {s}" for s in ("finished", "stopped", "failed") if s in ended)
        spent = spending(record.trials, record.definition, record.select())
        opened = openings_of(record.tracker, record.run_id)
        when = "; ".join(one.when[:10] for one in opened) or "never"
        hours = "" if spent is None else f"{spent.total:.1f}"
        rows.append([f"`{name}`", f"`{record.definition['name']}`", counts, hours, when])
    return markdown(["reference", "definition", "trials", "CPU hours", "test part opened"], rows)


def whole(record: StudyRecord) -> bool:
    """Whether every planned trial of an ablation is finished: what rests on others is not said."""
    return len(record.finished) == planned_trials(record.name)


def planned_trials(name: str) -> int:
    """How many trials a shipped ablation has, its controls among them."""
    planned = load_ablation(name, {})
    return len(planned.controls()) + len(planned.members())


def state(records: Mapping[str, StudyRecord]) -> str:
    """How much of what was planned is there."""
    found: dict[str, list[str]] = {"Finished": [], "Under way": [], "Not begun": []}
    for name in PLANNED:
        trials = planned_trials(name)
        done = sum(len(record.finished) for record in records.values() if record.name == name)
        of = f"{done} of {trials} trials" if 0 < done < trials else f"{trials} trials"
        found["Finished" if done == trials else "Under way" if done else "Not begun"].append(f"`{name}` ({of})")
    search = any(record.name == SEARCHED for record in records.values())
    found["Finished" if search else "Not begun"].append(f"the search `{SEARCHED}` and its confirmation")
    return " ".join(f"**{what}**: {', '.join(parts)}." for what, parts in found.items() if parts)


def effects(record: StudyRecord) -> str:
    """Main effects and interactions of the headline's parts."""
    found = effects_of(record)
    assert found is not None
    by_name: dict[str, dict[str, Effect]] = {}
    for effect in found.effects:
        by_name.setdefault(effect.name, {})[effect.benchmark] = effect
    benchmarks = record.table.benchmarks
    rows = [[name, *(shown(of[b]) for b in benchmarks)] for name, of in by_name.items()]
    return markdown(["effect", *benchmarks], rows)


def claims(records: Sequence[StudyRecord]) -> str:
    """Verdict on every claim: by the published table, and by the studies of record."""
    loaded = load_claims()
    published = judge_claims(loaded, from_csv(published_path(), loaded))
    here = judge_claims(loaded, from_studies(*records))
    rows = []
    for one, other in zip(published.findings, here.findings, strict=True):
        rows.append([str(one.claim.id), one.claim.title, one.verdict, other.verdict])
    return markdown(["claim", "what it says", "published table", "here"], rows)


def transfer(mixed: StudyRecord, synthetic: StudyRecord) -> str:
    """What pretraining on rendered motion has over the mixed regime, variant by variant, by the same seeds."""
    one, other, noise = synthetic.samples, mixed.samples, noise_of(mixed)
    keys = [key for key in one if key in other and key[0] != RANDOM_INIT]
    family = holm([compare(one[key], other[key], noise=noise.residual(key[1])) for key in keys])
    found = dict(zip(keys, family, strict=True))
    benchmarks = synthetic.table.benchmarks
    rows = [
        [f"`{v}`", *(shown(found[v, b]) for b in benchmarks)]
        for v in synthetic.table.variants
        if (v, benchmarks[0]) in found
    ]
    return markdown(["synthetic less mixed", *benchmarks], rows)


def confirmed(record: StudyRecord) -> str:
    """What was left of a study's gains on fresh seeds and test items, and the verdict in words."""
    found = confirmation_of(record)
    assert found is not None
    rows = [[f"`{v}`", *(f"{g.search:+.1f} → {shown(g.fresh)}" for g in found.of(v).values())] for v in found.variants]
    return "\n\n".join([markdown(["variant", *found.benchmarks], rows), *found.sentences])


def verdict(record: StudyRecord) -> str:
    """What the selection says of a study, in words."""
    return record.select().sentence


def tables(home: Path) -> Iterator[tuple[str, str]]:
    """Every table that the bundles there are give, by name."""
    records = {name: open_bundle(name, home) for name in references()}
    ablations = {name: records[name] for name in ABLATIONS if name in records and whole(records[name])}
    yield "state", state(records)
    yield "account", account(records)
    yield "controls", controls(ablations)
    for name, record in ablations.items():
        yield f"results {name}", results(record)
        yield f"verdict {name}", verdict(record)
    if MIXED in ablations:
        yield SHORT, results(records[MIXED], short=True)
        yield "effects", effects(records[MIXED])
        yield "claims", claims([record for name, record in ablations.items() if name != SYNTHETIC])
    if MIXED in ablations and SYNTHETIC in ablations:
        yield "transfer", transfer(records[MIXED], records[SYNTHETIC])
    if SEARCH in records:
        yield "verdict search", verdict(records[SEARCH])
    for name in CONFIRMED:
        if name in records:
            yield f"confirmed {name.removesuffix('_confirmation')}", confirmed(records[name])


def block(name: str) -> re.Pattern[str]:
    """A table in the page; the group is its content."""
    return re.compile(rf"<!-- {re.escape(name)} -->\n(.*?)<!-- end -->", re.S)


def main() -> None:
    parser = argparse.ArgumentParser(description="Tables and pictures of docs/reference_study.md from the bundles.")
    parser.add_argument("--print", action="store_true", help="print the tables, write nothing")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        found = dict(tables(Path(temporary)))
        if asked.print:
            for name, content in found.items():
                print(f"## {name}\n\n{content}\n")
            return
        placed: set[str] = set()
        for file in (PAGE, README):
            page = file.read_text()
            for name, content in found.items():
                page, count = block(name).subn(lambda _, n=name, c=content: f"<!-- {n} -->\n{c}\n<!-- end -->", page)
                placed |= {name} if count else set()
            file.write_text(page)
        for name in found.keys() - placed:
            print(f"the pages have no place for {name!r}")
        drawn = conclude_study(open_bundle(MIXED, Path(temporary)), Path(temporary) / "reference_front.png")
        shutil.copy(drawn.plot, ROOT / "docs")


if __name__ == "__main__":
    main()
