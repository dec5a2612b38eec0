"""Evaluation: the judge, and tables of a defence on degradations and under attack."""
