"""Vectors become a classifier."""
