"""integer."""
