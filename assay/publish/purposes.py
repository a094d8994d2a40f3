"""What a dataset may be used for; in contracts purpose i is bit i. Apart, so that a command line that only names them loads nothing else."""

from __future__ import annotations

PURPOSES = ("research", "education", "commercial", "health", "public-good")
