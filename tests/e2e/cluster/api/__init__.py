"""What a real Kubernetes API server says to the chart, the launcher and the operator: no nodes."""
