"""The languages that Whisper knows (openai/whisper `tokenizer.py`, LANGUAGES)."""

from __future__ import annotations

import difflib

LANGUAGES = {
    "en": "english", "zh": "chinese", "de": "german", "es": "spanish", "ru": "russian",
    "ko": "korean", "fr": "french", "ja": "japanese", "pt": "portuguese", "tr": "turkish",
    "pl": "polish", "ca": "catalan", "nl": "dutch", "ar": "arabic", "sv": "swedish",
    "it": "italian", "id": "indonesian", "hi": "hindi", "fi": "finnish", "vi": "vietnamese",
    "he": "hebrew", "uk": "ukrainian", "el": "greek", "ms": "malay", "cs": "czech",
    "ro": "romanian", "da": "danish", "hu": "hungarian", "ta": "tamil", "no": "norwegian",
    "th": "thai", "ur": "urdu", "hr": "croatian", "bg": "bulgarian", "lt": "lithuanian",
    "la": "latin", "mi": "maori", "ml": "malayalam", "cy": "welsh", "sk": "slovak",
    "te": "telugu", "fa": "persian", "lv": "latvian", "bn": "bengali", "sr": "serbian",
    "az": "azerbaijani", "sl": "slovenian", "kn": "kannada", "et": "estonian",
    "mk": "macedonian", "br": "breton", "eu": "basque", "is": "icelandic", "hy": "armenian",
    "ne": "nepali", "mn": "mongolian", "bs": "bosnian", "kk": "kazakh", "sq": "albanian",
    "sw": "swahili", "gl": "galician", "mr": "marathi", "pa": "punjabi", "si": "sinhala",
    "km": "khmer", "sn": "shona", "yo": "yoruba", "so": "somali", "af": "afrikaans",
    "oc": "occitan", "ka": "georgian", "be": "belarusian", "tg": "tajik", "sd": "sindhi",
    "gu": "gujarati", "am": "amharic", "yi": "yiddish", "lo": "lao", "uz": "uzbek",
    "fo": "faroese", "ht": "haitian creole", "ps": "pashto", "tk": "turkmen", "nn": "nynorsk",
    "mt": "maltese", "sa": "sanskrit", "lb": "luxembourgish", "my": "myanmar", "bo": "tibetan",
    "tl": "tagalog", "mg": "malagasy", "as": "assamese", "tt": "tatar", "haw": "hawaiian",
    "ln": "lingala", "ha": "hausa", "ba": "bashkir", "jw": "javanese", "su": "sundanese",
    "yue": "cantonese",
}  # fmt: skip
"""Whisper's language codes and their English names; `yue` only with large-v3 and later."""

_CODES = {name: code for code, name in LANGUAGES.items()} | {
    "mandarin": "zh", "castilian": "es", "flemish": "nl", "jv": "jw", "nb": "no", "iw": "he",
}  # fmt: skip


def parse_language(value: str | None) -> str | None:
    """A language's code; None where it is to be detected: `auto`, `detect`, `none`, nothing.

    Raises:
        ValueError: see `language_code`.
    """
    if value is None or value.strip().lower() in ("", "auto", "detect", "none"):
        return None
    return language_code(value)


def language_code(value: str) -> str:
    """`en`, `EN`, `en-US`, `en_us` or `english` → `en`.

    Raises:
        ValueError: Whisper does not know the language.
    """
    wanted = value.strip().lower().replace("_", "-")
    for candidate in (wanted, wanted.split("-")[0]):
        if candidate in LANGUAGES:
            return candidate
        if candidate in _CODES:
            return _CODES[candidate]
    near = difflib.get_close_matches(wanted, [*LANGUAGES, *_CODES], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"{value!r} is not a language that Whisper knows{hint} "
        "(allowed: a code such as en, de, zh or a name such as english; leave it out to detect)"
    )
