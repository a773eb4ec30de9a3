"""What is kept of a study: its book, its MLflow runs, its home folder."""
