"""Placeholder: what the job script puts first on PYTHONPATH comes with another change."""
