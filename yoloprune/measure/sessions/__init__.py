"""Networks ready to run, each in one runtime: a small class a runtime, all in one table."""
