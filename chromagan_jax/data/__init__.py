"""The input pipeline: sources of encoded images, decoding, transforms and batches."""
