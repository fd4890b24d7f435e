"""What ``import yoloprune`` offers: networks in memory, results that print."""
