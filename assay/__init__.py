"""Assay: model training that is proven, not trusted."""
