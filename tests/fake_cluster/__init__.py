"""A Kubernetes cluster in this process: API server (state, api) and Job controller (jobs)."""
