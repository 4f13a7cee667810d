"""The whole story in minutes: made clips, three methods, one comparison."""
