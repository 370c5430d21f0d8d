"""The evidence bundle of a finished audit: written once, verified by anyone who has the bundle and the model."""
