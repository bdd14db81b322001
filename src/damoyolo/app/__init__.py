"""A model in the browser and behind HTTP: one static page, and an API that stays polite under load."""
