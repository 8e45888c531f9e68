"""Pictures and labels become an index that can be trusted. No torch here."""
