"""ethos_u."""
