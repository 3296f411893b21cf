"""What do the numbers say? Scaling, attribution, intervals, comparisons, models, predictions."""
