"""The papers: experiments beside published numbers. Only `launch` imports this."""
