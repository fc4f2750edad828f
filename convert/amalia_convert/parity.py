"""The check that a GGUF's vocabulary, read by libllama, gives the ids of the tokenizer it came from."""

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

from amalia_convert.checkpoint import Json
from amalia_convert.parity_sample import AROUND, PLAIN
from amalia_convert.sentencepiece_model import MODEL, load_sentencepiece, puts_space_first
from amalia_convert.tokenizer_json import JSON
from amalia_convert.tokens import Token, TokenType
from amalia_convert.vocab import read_table, read_tokenizer_files
from amalia_edge.errors import ConvertError, ModelCorrupt
from amalia_edge.native import open_vocabulary
from amalia_edge.vocab import Vocabulary

WORDS, IN_A_LINE = 2048, 16  # tokens whose own texts are tried, and how many of them one after the other
SPECIAL = 4  # control tokens that are tried with text around them, and as many user-defined ones
LATIN = "\u0250"  # above the letters of the languages we vouch for
SPECIAL_TYPES = (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN)
PREFIXED = "text after a control token, or with a space before it, gets a space that its own tokenizer leaves out"
DECOMPOSED = "decomposed accents (NFD) become other tokens than its own tokenizer's: give it text in NFC"

Encoder = Callable[[str], list[int]]


def check_parity(path: Path, folder: Path) -> tuple[str, ...]:
    """Refuse a file that reads texts otherwise than the checkpoint's own tokenizer; gives what is to be warned of.

    llama.cpp's own files differ too in two ways, which are only warned of: libllama does not compose accents, and where
    a space goes before the text it puts one before every part between control tokens, even where there is one.
    """
    tokenizer, config = read_tokenizer_files(folder)
    warnings: dict[str, None] = {}  # a set that keeps its order
    with open_vocabulary(path) as pointer:
        vocabulary = Vocabulary(pointer)
        table = read_table(folder, tokenizer, config, vocabulary.size)
        special = {token.text: index for index, token in table.tokens.items() if token.type in SPECIAL_TYPES}
        own = _sentencepiece(folder, config, special) if table.path.name == MODEL else _tokenizers(folder)
        for text in itertools.chain(PLAIN, _words(vocabulary), _around(table.tokens, tokenizer)):
            found, wanted = vocabulary.encode(text, control=True), own(text)
            if found == wanted:
                continue
            if not table.prefix or found not in (_apart(text, special, own, lead) for lead in ("", " ")):
                raise _difference(path, text, found, wanted)
            warnings[PREFIXED] = None
        decomposed = (unicodedata.normalize("NFD", text) for text in PLAIN)
        if any(vocabulary.encode(text, control=True) != own(text) for text in decomposed):
            warnings[DECOMPOSED] = None
    return tuple(warnings)


def _difference(path: Path, text: str, found: list[int], wanted: list[int]) -> ConvertError:
    same = next(index for index, pair in enumerate(itertools.zip_longest(found, wanted)) if pair[0] != pair[1])
    cut = slice(max(same - 2, 0), same + 8)
    what = f"libllama reads {text[:80]!r} from token {same} on as {found[cut]}, its own tokenizer as {wanted[cut]}"
    return ConvertError(path.name, what, "take a checkpoint with another tokenizer, and report this one")


def _parts(text: str, special: dict[str, int]) -> list[str]:
    """Split at special tokens, the longest first: every second part is one."""
    longest = sorted((re.escape(token) for token in special if token), key=len, reverse=True)
    return re.split(f"({'|'.join(longest)})" if longest else "(?!)", text)


def _apart(text: str, special: dict[str, int], encode: Encoder, lead: str) -> list[int]:
    """Encode each part as a text of its own; `lead` goes before those that begin with a space."""
    ids: list[int] = []
    for index, part in enumerate(_parts(text, special)):
        if index % 2:
            ids.append(special[part])
        elif part:
            ids += encode((lead if part.startswith(" ") else "") + part)
    return ids


def _sentencepiece(folder: Path, config: Json, special: dict[str, int]) -> Encoder:
    """Encode between the special tokens, which SentencePiece itself would not recognise."""
    prefix = puts_space_first(load_sentencepiece(folder / MODEL), config)
    first = load_sentencepiece(folder / MODEL, prefix)
    later = load_sentencepiece(folder / MODEL, prefix and config.get("legacy") is not False)

    def encode(text: str) -> list[int]:
        ids: list[int] = []
        for index, part in enumerate(_parts(text, special)):
            if index % 2:
                ids.append(special[part])
            elif part:
                ids += (later if index else first).encode(part)
        return ids

    return encode


def _tokenizers(folder: Path) -> Encoder:
    import tokenizers

    path = folder / JSON
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        found = f"the tokenizers library cannot read it ({str(error)[:120]})"
        raise ModelCorrupt(str(path), found, "download the file again") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


def _around(tokens: dict[int, Token], tokenizer: Json) -> Iterator[str]:
    """Put texts around some special tokens; not around those that eat the spaces beside them."""
    added = tokenizer.get("added_tokens")
    eager = {
        str(entry.get("content"))
        for entry in (added if isinstance(added, list) else [])
        if isinstance(entry, dict) and any(entry.get(flag) for flag in ("lstrip", "rstrip", "single_word"))
    }
    for kind in (TokenType.CONTROL, TokenType.USER_DEFINED):
        texts = (tokens[index].text for index in sorted(tokens) if tokens[index].type == kind)
        for text in itertools.islice((text for text in texts if text not in eager and text.strip()), SPECIAL):
            yield from (around.format(*[text] * around.count("{}")) for around in AROUND)


def _words(vocabulary: Vocabulary) -> Iterator[str]:
    """Try the vocabulary's own words: tokens spread evenly over it, in the letters we vouch for."""
    chosen = range(0, vocabulary.size, max(vocabulary.size // WORDS, 1))
    texts = (vocabulary.bytes_of(index).decode("utf-8", "replace") for index in chosen)
    words = [text for text in texts if text and max(text) < LATIN and unicodedata.is_normalized("NFC", text)]
    for begin in range(0, len(words), IN_A_LINE):
        yield unicodedata.normalize("NFC", "".join(words[begin : begin + IN_A_LINE]))
