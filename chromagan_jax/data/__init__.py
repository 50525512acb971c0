"""Photographs in, batches out: sources of encoded images, their decoding, the grain pipeline."""
