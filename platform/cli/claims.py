"""The command `equipoise claims`."""

from __future__ import annotations

from pathlib import Path

import click

from equipoise.platform.cli.options import Places, emit, home_options, json_option, storage_option, terminal


@click.command()
@click.argument("target", metavar="[STUDY|CSV]", required=False)
@click.option(
    "--reference",
    "references",
    multiple=True,
    metavar="NAME|FILE",
    help="A study that ships, or a bundle; several, of different regimes, for claims about several.",
)
@click.option("--published", is_flag=True, help="The paper's published table instead of a study.")
@click.option("--claims", "name", help="A YAML file of claims; default: those of the paper.")
@click.option("--level", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.05, show_default=True)
@click.option("--details", is_flag=True, help="Every difference behind a verdict, and what is missing for one.")
@home_options
@storage_option
@json_option
def claims(
    target: str | None,
    references: tuple[str, ...],
    published: bool,
    name: str | None,
    level: float,
    details: bool,
    places: Places,
    as_json: bool,
) -> None:
    """Say which of the paper's claims a STUDY, or a CSV of accuracies, supports.

    Each claim is supported, refuted, not distinguishable, or not testable here; --details has the numbers that say
    so. A target that ends in .csv is a file in the layout of the published table; all its regimes are read.
    """
    from equipoise.platform.analysis.claims.evidence import from_csv, from_studies
    from equipoise.platform.analysis.claims.judge import judge_claims
    from equipoise.platform.analysis.claims.vocabulary import PUBLISHED_CLAIMS, load_claims
    from equipoise.platform.report.tables.claims import show
    from equipoise.platform.stats.published import published_path

    if sum([target is not None, bool(references), published]) != 1:
        raise click.UsageError("give one of: a STUDY, a file ending in .csv, --published, or --reference NAME")
    loaded = load_claims(name or PUBLISHED_CLAIMS)
    if references:
        evidence = from_studies(*(places.read(None, one) for one in references))
    elif target is None:
        evidence = from_csv(published_path(), loaded, "the published table")
    elif Path(target).suffix.lower() == ".csv":
        evidence = from_csv(Path(target), loaded)
    else:
        evidence = from_studies(places.study(target))
    found = judge_claims(loaded, evidence, level=level)
    if as_json:
        emit(found.to_dict())
    else:
        show(found, terminal(), details=details)
