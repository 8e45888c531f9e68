"""Numbers become a page. No torch here."""
