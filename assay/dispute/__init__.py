"""Disputes: what a single element must be, how a link is walked down to one, and the game that two parties play (docs/dispute.md)."""
