"""The image tower fed with frames: (B,T,3,H,W) -> logits, its weights and checkpoints, the authors' files."""
