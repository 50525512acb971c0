"""The TFDS builder, in a folder of its own because TFDS looks for a data set's texts beside it."""
