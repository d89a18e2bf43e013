"""Video files to tensors: decoding, sampling, transforms, list files, and the embedded miniature data."""
