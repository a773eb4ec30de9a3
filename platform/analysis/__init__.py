"""Questions put to a record: effects, confirmation, explanation, claims."""
