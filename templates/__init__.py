"""Jinja templates of the batch scripts; installed as hpcjobs.templates."""
