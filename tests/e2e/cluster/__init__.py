"""Tests on a real cluster; see README.md."""
