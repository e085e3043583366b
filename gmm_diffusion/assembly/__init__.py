"""What `build` puts together, one file a stage; see `gmm_diffusion.build` for the public names."""
