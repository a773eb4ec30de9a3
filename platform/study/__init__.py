"""The driver of a study: what runs next, and what happened."""
