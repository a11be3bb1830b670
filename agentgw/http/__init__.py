"""Faces only: HTTP in, the story's or the STS's answer out. Nothing is decided here."""
