"""Parties that do not keep the protocol: each is the honest one (assay.sim.cast, assay.sim.hands) with one part replaced."""
