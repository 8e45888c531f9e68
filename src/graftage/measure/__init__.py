"""Predictions become numbers with intervals. No torch here."""
