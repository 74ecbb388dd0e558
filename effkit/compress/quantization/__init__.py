"""Few bits a weight: a registry of methods, a plan, and the work itself."""
