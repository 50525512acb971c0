"""Preparation of a training set from a folder of images: filtering, deduplication, shards."""
