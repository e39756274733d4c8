"""From a trained model to an engine."""
