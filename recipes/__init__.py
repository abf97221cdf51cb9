"""How the two shipped cross-encoders are made; ``python -m recipes --data FOLDER`` makes them."""
