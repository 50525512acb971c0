"""How good the pictures are: metrics, scores of photographs, the job that scores checkpoints."""
