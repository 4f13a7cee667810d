"""Trained classifiers on the Hugging Face hub: model cards and uploads."""
