"""The command `equipoise export`."""

from __future__ import annotations

from pathlib import Path

import click

from equipoise.platform.cli.options import Places, emit, home_options, json_option, say


@click.command()
@click.argument("target", metavar="STUDY@ALIAS|CHECKPOINT")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--license", "licence", metavar="ID", help="For the card, such as apache-2.0; default: none is stated.")
@home_options
@json_option
def export(target: str, folder: Path, licence: str | None, places: Places, as_json: bool) -> None:
    """Write an encoder for people who have no Equipoise: safetensors, a configuration, and a card.

    It is that of STUDY@candidate, STUDY@baseline, STUDY@balanced (after a confirmation) or of a checkpoint's folder.
    FOLDER is made; transformers or timm load it. The card says what it was trained on and by, and what is known of it.
    """
    from equipoise.platform.report.export.writer import export as write

    found = write(target, folder, places.open(), licence=licence)
    if as_json:
        emit(
            {
                "folder": str(found.folder),
                "files": list(found.files),
                "variant": found.variant,
                "verdict": found.verdict,
            }
        )
        return
    say(f"{found.variant}: {found.verdict}\nin {found.folder}: {', '.join(found.files)}")
