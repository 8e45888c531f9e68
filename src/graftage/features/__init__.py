"""Pictures become vectors, once."""
