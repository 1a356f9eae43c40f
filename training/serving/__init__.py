"""A model behind OpenAI's API: what is asked, the model that writes, what is answered, HTTP. Imports no room."""
