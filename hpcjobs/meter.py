"""Placeholder: what a training imports comes with another change."""
