"""Evaluation: image metrics, scores over a data set, and the job that scores checkpoints."""
