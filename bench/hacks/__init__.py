"""Whether candidates that were trained on a flawed reward get past the gate."""
