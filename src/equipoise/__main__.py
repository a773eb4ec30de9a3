"""``python -m equipoise``: the command line."""

from equipoise.platform.cli.main import main

main()
