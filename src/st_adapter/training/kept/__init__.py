"""Features of the frozen part of a classifier, which are computed once and kept."""
