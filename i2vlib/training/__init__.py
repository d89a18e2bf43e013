"""One loop on Accelerate, its folder, optimiser, mixing and evaluation."""
