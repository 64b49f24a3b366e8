"""Models: any open vision-language model as an embedder, a judge or a reranker.

Nothing is imported here: prompts and recipes are read without torch.
"""
