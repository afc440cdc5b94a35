"""HTTP mechanics that all routes share: bodies, conditional requests, problems, the cycle."""
