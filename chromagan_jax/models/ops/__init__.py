"""Convolutions with an implementation chosen for each back end."""
