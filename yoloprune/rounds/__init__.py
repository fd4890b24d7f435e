"""Recipes, and their carrying out round by round."""
