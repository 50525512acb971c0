"""The model under training: its state, the step that changes it, its checkpoints."""
