"""Films to colour ones without flicker: containers, scenes, carried colours, and the run."""
