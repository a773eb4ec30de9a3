"""Manifests, decoding, clip cache, mixtures, transforms and the miniature generator."""
