"""GAN training: model, losses, optimizers, train state, train step and checkpoints."""
