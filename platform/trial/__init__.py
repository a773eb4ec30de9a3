"""What runs on a worker: training, evaluation, the audit of objectives."""
