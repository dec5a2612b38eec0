"""Reconstructive training (Patrick et al., WACV workshops 2022): its experiments."""
