"""What each method trains besides the head."""
