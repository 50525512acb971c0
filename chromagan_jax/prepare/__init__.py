"""From a pile of pictures to a training set: clean, without duplicates, in shards."""
