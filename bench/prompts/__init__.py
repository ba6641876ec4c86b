"""What a prompt strategy costs for each request."""
