"""``python -m equipoise``: the command line."""

from equipoise.platform.cli.main import main

if __name__ == "__main__":
    main()
