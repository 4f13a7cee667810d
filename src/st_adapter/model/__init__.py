"""The video classifier, the adapter inside it, and how both are saved and loaded."""
