"""What a training run of ours costs against the bare TRL trainer on the same data."""
