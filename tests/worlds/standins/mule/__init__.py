"""As mule: a package with models.layers."""
