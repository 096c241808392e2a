"""Tests that need nothing but files and processes of their own."""
