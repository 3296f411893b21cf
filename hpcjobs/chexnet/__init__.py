"""The built-in trainer, CheXNet on NIH ChestX-ray14: its data and its training."""
