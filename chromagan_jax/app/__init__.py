"""A page in the browser that colorizes photographs."""
