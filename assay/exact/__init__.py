"""Exact arithmetic: operators whose bits depend on nothing but their inputs."""
