"""A dataset made ready to be used by others: read from files, checked, sealed into shards, described by a manifest."""
