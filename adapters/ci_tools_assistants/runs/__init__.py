"""Runs: the model's turns, the code that they run, their events, and what becomes of them."""
