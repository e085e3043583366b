"""A trained model: what was fitted to data, denoiser and classifier, and drawing from them."""
