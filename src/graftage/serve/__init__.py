"""The classifier goes to work."""
