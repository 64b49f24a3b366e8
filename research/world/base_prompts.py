"""What the student's lessons say around the content: system texts and instructions.

Varied on purpose: the student is later used without a system text, with one that asks for an
embedding, and as a judge.
"""

from __future__ import annotations

GENERAL = (
    "you are a helpful assistant .",
    "You are a helpful assistant.",
    "You look at pictures and answer shortly.",
    "Answer the question.",
)
EMBEDDING = (
    "You turn every input into one word. If there is an image, name in one word what it shows; if "
    "there is only text, name its meaning in one word.",
    "Given an image, summarize it. Given a text, summarize the text.",
    "Represent the input.",
    "Represent the given image with the following question.",
)
JUDGING = (
    "You check search results. You see a query and one candidate. Answer with Yes or No only.",
    "You are a judge. Answer Yes or No.",
    "Decide whether the text is true of the image.",
)
SYSTEMS = (*GENERAL, *EMBEDDING, *JUDGING)

LIST_PLACES = ("list everything and where it is .", "Describe the image in detail.")
LIST_LOOKS = ("list everything .", "Name all objects in the image.")
CAPTION = ("describe the image .", "Find a caption that describes the image.", "caption ?", "")
CROP = ("what is in the middle ?", "what is this ?", "Name the object.")
TRUE = (
    "{text} . Yes or No ?",
    "Is this true of the image: {text}",
    "Query: the image above. Candidate: {text}\nAnswer Yes or No.",
    "Does the image match the text ? {text}",
)
SAME = (
    "Query: {query}\nCandidate: {candidate}\nDo both say the same ? Answer Yes or No.",
    "{query} . {candidate} . Same meaning ?",
)
PARAPHRASE = ("Say it in other words: {text}", "{text}\nparaphrase .", "{text}\nExpress the text.")
ASK_TEXT = ("{text}\n{question}", "Text: {text}\nQuestion: {question}")
TEXTS = (
    *LIST_PLACES, *LIST_LOOKS, *CAPTION, *CROP, *TRUE, *SAME, *PARAPHRASE, *ASK_TEXT,
    "Express the image above in a single word:", "Express the text above in a single word:",
    "Task: Is the candidate what the query asks for? Answer Yes or No.",
    "Find an image that matches the given caption.", "Answer the question about the image.",
)  # fmt: skip
