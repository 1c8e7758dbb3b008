"""Parts that several gates share: folded words, sketches and indexes of texts, spans, neighbours by cosine."""
