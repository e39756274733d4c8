"""A command line each."""
