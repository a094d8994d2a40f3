"""The worker role: a GPU owner's daemon."""
