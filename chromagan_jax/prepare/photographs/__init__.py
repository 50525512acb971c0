"""The TFDS builder, in a separate folder because TFDS looks there for the data set's texts."""
