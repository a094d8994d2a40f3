"""The outside behind ports: chain, blobs, peers, keys, journal, engine."""
