"""Pure PyTorch: token geometry, encoder, predictor, masks, objectives, VideoJEPA, probes, diagnostics."""
