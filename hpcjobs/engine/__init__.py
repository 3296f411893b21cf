"""Moves runs through their states: submit, follow, cancel."""
