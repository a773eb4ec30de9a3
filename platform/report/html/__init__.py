"""One self-contained page for a study."""
