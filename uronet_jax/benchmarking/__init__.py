"""Benchmarks: how long training steps take, as ratios against named peers."""
