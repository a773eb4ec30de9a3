"""Answers, drawn and kept."""
