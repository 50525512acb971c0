"""Gray photographs to colour ones: the network on arrays and on files, and what is done besides."""
