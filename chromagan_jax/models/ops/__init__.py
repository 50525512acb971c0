"""Operations of the networks, each with the implementation that its back end is best at."""
