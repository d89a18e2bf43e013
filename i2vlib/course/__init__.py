"""What keeps the course whole: its environment, claims, experiments, results page, site and shipped checkpoints."""
