"""What to do with one HTTP exchange: heads, bodies and scan results in, actions out. Pure."""
