"""Scores of clips and videos, how good they are, and the Predictor."""
