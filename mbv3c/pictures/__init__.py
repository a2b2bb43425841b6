"""Pictures in, answers out: what the outputs of a network say of a picture, and drawn onto it."""
