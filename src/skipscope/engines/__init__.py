"""The engines: from one `Spec` each builds the same network with the same numbers."""
