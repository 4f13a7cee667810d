"""Write the result of a run or of a comparison as a self-contained HTML page."""
