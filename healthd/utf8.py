"""Whether a text can be told: names of files and variables may hold bytes that no answer can."""


def is_utf8(text: str) -> bool:
    """Whether a text, such as the name of a file, can be written as UTF-8: C++ libraries crash of others."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
