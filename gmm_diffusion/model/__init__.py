"""A trained model: what was fitted to data, denoiser and classifier, and samples of them."""
