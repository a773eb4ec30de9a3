"""Pure numbers: results, fronts, selection, uncertainty. No file, no screen."""
