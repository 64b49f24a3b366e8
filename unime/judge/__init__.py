"""The judge: scores (query, candidate) pairs with a multimodal language model, or an oracle."""
