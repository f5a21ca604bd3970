"""Help with prompts: a vocabulary of film, and rewriting by a language model of the user's."""
