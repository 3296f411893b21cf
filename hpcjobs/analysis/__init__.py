"""What the numbers say: scaling, attribution, intervals, comparisons, models."""
