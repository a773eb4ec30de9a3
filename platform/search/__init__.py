"""Where mixes come from: samplers, early stopping, repeats, warm starts."""
