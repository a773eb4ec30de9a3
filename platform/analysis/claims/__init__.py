"""Published claims, judged on a study."""
