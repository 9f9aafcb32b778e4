"""What the two estimators' documentation has in common."""
def documented(cls): return cls
