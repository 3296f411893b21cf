"""What the job script puts first on PYTHONPATH, so that the meter is in a training that nobody edited.

These modules run in the user's Python (3.8 on) and import the standard library and meter.py alone, which stands beside
this folder.
"""
