"""The languages that Whisper knows (openai/whisper `tokenizer.py`, LANGUAGES)."""

from __future__ import annotations

import re

from .errors import did_you_mean

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

_NAMES = {
    "bokmal": "no", "bokmål": "no", "burmese": "my", "castilian": "es", "farsi": "fa",
    "filipino": "tl", "flemish": "nl", "haitian": "ht", "letzeburgesch": "lb", "mandarin": "zh",
    "moldavian": "ro", "moldovan": "ro", "panjabi": "pa", "pushto": "ps", "sinhalese": "si",
    "slovene": "sl", "valencian": "ca",
}  # fmt: skip
"""Further English names (openai/whisper `tokenizer.py`, TO_LANGUAGE_CODE; livekit-agents)."""

_ISO = {
    "af": "afr", "am": "amh", "ar": "ara arb", "as": "asm", "az": "aze azj", "ba": "bak",
    "be": "bel", "bg": "bul", "bn": "ben", "bo": "bod tib", "br": "bre", "bs": "bos", "ca": "cat",
    "cs": "ces cze", "cy": "cym wel", "da": "dan", "de": "deu ger", "el": "ell gre", "en": "eng",
    "es": "spa", "et": "est ekk", "eu": "eus baq", "fa": "fas per pes prs", "fi": "fin",
    "fo": "fao", "fr": "fra fre", "gl": "glg", "gu": "guj", "ha": "hau", "he": "heb iw",
    "hi": "hin", "hr": "hrv", "ht": "hat", "hu": "hun", "hy": "hye arm", "id": "ind in",
    "is": "isl ice", "it": "ita", "ja": "jpn", "jw": "jav jv", "ka": "kat geo", "kk": "kaz",
    "km": "khm", "kn": "kan", "ko": "kor", "la": "lat", "lb": "ltz", "ln": "lin", "lo": "lao",
    "lt": "lit", "lv": "lav lvs", "mg": "mlg plt", "mi": "mri mao", "mk": "mkd mac", "ml": "mal",
    "mn": "mon khk", "mr": "mar", "ms": "msa may zsm", "mt": "mlt", "my": "mya bur",
    "ne": "nep npi", "nl": "nld dut", "nn": "nno", "no": "nor nob nb", "oc": "oci",
    "pa": "pan", "pl": "pol", "ps": "pus pbt", "pt": "por", "ro": "ron rum mol mo", "ru": "rus",
    "sa": "san", "sd": "snd", "si": "sin", "sk": "slk slo", "sl": "slv", "sn": "sna", "so": "som",
    "sq": "sqi alb als", "sr": "srp", "su": "sun", "sv": "swe", "sw": "swa swh", "ta": "tam",
    "te": "tel", "tg": "tgk", "th": "tha", "tk": "tuk", "tl": "tgl fil", "tr": "tur", "tt": "tat",
    "uk": "ukr", "ur": "urd", "uz": "uzb uzn", "vi": "vie", "yi": "yid ydd ji", "yo": "yor",
    "zh": "zho chi cmn",
}  # fmt: skip
"""The other codes of each: ISO 639-2 (both of them) and 639-3, the individual language that a
macrolanguage usually means, and what ISO 639-1 once was or now is (`iw`, `jv`)."""

_CODES = (
    {code: code for code in LANGUAGES}
    | {name: code for code, name in LANGUAGES.items()}
    | {other: code for code, others in _ISO.items() for other in others.split()}
    | _NAMES
)

DETECT = ("auto", "detect", "multi", "none", "und", "")
"""What stands for a language that is to be detected."""


def parse_language(value: str | None) -> str | None:
    """A language's code; None where it is to be detected: None, or one of `DETECT`.

    Raises:
        ValueError: see `language_code`.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() in DETECT):
        return None
    return language_code(value)


def language_code(value: str) -> str:
    """Whisper's code of a language, however that is written.

    Args:
        value: an English name, an ISO 639 code of two or three letters, or a BCP 47 tag, of which
            script and region count for nothing: `german`, `DE`, `deu`, `ger`, `de-AT`, `de_AT`.

    Raises:
        ValueError: Whisper does not know the language.
    """
    if isinstance(value, str):
        wanted = value.strip().lower()
        for candidate in (wanted, re.split("[-_]", wanted)[0]):
            if candidate in _CODES:
                return _CODES[candidate]
        hint = did_you_mean(wanted, _CODES)
    else:
        hint = ""
    raise ValueError(
        f"{value!r} is not a language that Whisper knows{hint} (allowed: a code such as en, deu or "
        "zh-TW, a name such as german, or auto, in code None, to detect it)"
    )
