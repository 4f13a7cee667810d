"""Helpers that every part uses: files, locks, signals, progress, log messages, provenance."""
