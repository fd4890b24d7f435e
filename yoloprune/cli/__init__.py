"""The command line: flags → one library call → print."""
