"""Scoring, prediction and evaluation of videos with a trained classifier."""
