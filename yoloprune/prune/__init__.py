"""Which channels go, and the cut itself: score, plan, cut, test, in one order."""
