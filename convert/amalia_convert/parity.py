"""The check that a GGUF's vocabulary, read by libllama, gives the ids of the tokenizer it came from."""

import functools
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

from amalia_convert.checkpoint import Json
from amalia_convert.parity_sample import AROUND, LETTERS, PLAIN
from amalia_convert.sentencepiece_model import (
    MODEL,
    NOT_NORMALIZED,
    PREFIX_FIELD,
    load_sentencepiece,
    puts_space_first,
)
from amalia_convert.tokenizer_json import JSON
from amalia_convert.tokens import Token, TokenTable, TokenType
from amalia_convert.vocab import read_table, read_tokenizer_files
from amalia_edge.errors import ConvertError, ModelCorrupt
from amalia_edge.native import open_vocabulary
from amalia_edge.vocab import Vocabulary

WORDS, IN_A_LINE = 2048, 16  # tokens whose own texts are tried, and how many of them one after the other
NAMED = 4  # tokens that one warning names
SPECIAL = 4  # control tokens that are tried with text around them, and as many user-defined ones
LATIN = "\u0250"  # above the letters of the languages we vouch for
SPECIAL_TYPES = (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN)
PREFIXED = "text after a control token, or with a space before it, gets a space that its own tokenizer leaves out"
DECOMPOSED = "decomposed accents (NFD) become other tokens than its own tokenizer's: give it text in NFC"
NORMALIZED = "its own tokenizer changes some text first (½ or extra spaces), libllama does not: give it text in NFKC"
STRIPPED = "tokens that take the spaces beside them, or must stand alone, are read here like any other: {}"
BEGINS = "its own tokenizer puts a token before a text, and this file says not to"
BEGINS_NOT = "this file says to put a token before a text, and its own tokenizer does not"

Encoder = Callable[[str], list[int]]
Reading = tuple[Encoder, tuple[str, ...]]  # one way to read a text, and the warnings where libllama reads it so


def check_parity(path: Path, folder: Path) -> tuple[str, ...]:
    """Refuse a file that reads texts otherwise than the checkpoint's own tokenizer; gives what is to be warned of.

    llama.cpp's own files differ too in some ways, which are only warned of: libllama does not normalize the text; where
    a space goes before the text it puts one before every part between special tokens, even where there is one; and its
    special tokens leave the spaces beside them.
    """
    tokenizer, config = read_tokenizer_files(folder)
    warnings: dict[str, None] = {}  # a set that keeps its order
    with open_vocabulary(path) as pointer:
        vocabulary = Vocabulary(pointer)
        table = read_table(folder, tokenizer, config, vocabulary.size)
        special = {token.text: index for index, token in table.tokens.items() if token.type in SPECIAL_TYPES}
        readings = _readings(folder, config, table, special)
        explain = functools.partial(_explain, readings=readings, special=special, prefix=table.prefix)
        eager = sorted(_eager(tokenizer, config) & special.keys())
        for text in itertools.chain(PLAIN, _words(vocabulary), _around(table.tokens, eager)):
            found = vocabulary.encode(text, control=True)
            why = explain(text, found)
            if why is None:
                raise _difference(path, text, found, readings[0][0](text))
            warnings |= dict.fromkeys(why)
        decomposed = [unicodedata.normalize("NFD", text) for text in PLAIN]
        if any(explain(text, vocabulary.encode(text, control=True)) is None for text in decomposed):
            warnings[DECOMPOSED] = None
        begins = vocabulary.adds_begin if table.path.name == MODEL else _begins(folder, readings[0][0])
        if begins != vocabulary.adds_begin:
            warnings[BEGINS if begins else BEGINS_NOT] = None
    if eager:
        named = [repr(text[:40]) for text in eager[:NAMED]] + ["…"] * (len(eager) > NAMED)
        warnings[STRIPPED.format(", ".join(named))] = None
    return tuple(warnings)


def _readings(folder: Path, config: Json, table: TokenTable, special: dict[str, int]) -> list[Reading]:
    """Give the ways to read a text that are right: the tokenizer's own first, then those llama.cpp's files show too."""
    if table.path.name != MODEL:
        return [(_tokenizers(folder), ())]
    split = {text: index for text, index in special.items() if text not in table.found_itself}
    own, bare = (_sentencepiece(folder, config, split, overruled) for overruled in (b"", NOT_NORMALIZED))
    # Text can be given in NFKC; what becomes of letters (a model for lower case only) nobody can avoid.
    return [(own, ()), (bare, (NORMALIZED,))] if own(LETTERS) == bare(LETTERS) else [(own, ())]


def _explain(
    text: str, found: list[int], readings: list[Reading], special: dict[str, int], prefix: bool
) -> tuple[str, ...] | None:
    """Say what is to be warned of where libllama reads a text so; None where no reading explains it."""
    for encode, why in readings:
        if found == encode(text):
            return why
        if prefix and found in (_apart(text, special, encode, lead) for lead in ("", " ")):
            return (*why, PREFIXED)
    return None


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


def _sentencepiece(folder: Path, config: Json, special: dict[str, int], overruled: bytes) -> Encoder:
    """Encode between the special tokens, which SentencePiece itself would not recognise."""
    path = folder / MODEL
    prefix = puts_space_first(load_sentencepiece(path), config)
    first = load_sentencepiece(path, overruled + PREFIX_FIELD + bytes([prefix]))
    later = load_sentencepiece(path, overruled + PREFIX_FIELD + bytes([prefix and config.get("legacy") is not False]))

    def encode(text: str) -> list[int]:
        ids: list[int] = []
        for index, part in enumerate(_parts(text, special)):
            if index % 2:
                ids.append(special[part])
            elif part:
                ids += (later if index else first).encode(part)
        return ids

    return encode


def _tokenizers(folder: Path, special: bool = False) -> Encoder:
    """Encode with the tokenizers library, which raises nothing narrower than Exception; `special` adds BOS and EOS."""
    import tokenizers

    path = folder / JSON
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:
        found = f"the tokenizers library cannot read it ({str(error)[:120]})"
        raise ModelCorrupt(str(path), found, "download the file again") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def encode(text: str) -> list[int]:
        try:
            return list(tokenizer.encode(text, add_special_tokens=special).ids)
        except Exception as error:
            found = f"the tokenizers library cannot encode {text[:40]!r} with it ({str(error)[:120]})"
            raise ModelCorrupt(str(path), found, "download the file again") from None

    return encode


def _begins(folder: Path, bare: Encoder) -> bool:
    """Say whether the tokenizers library puts a token before a text."""
    return _tokenizers(folder, special=True)("a")[:1] != bare("a")[:1]


def _eager(tokenizer: Json, config: Json) -> set[str]:
    """Name the added tokens that take the spaces beside them, or are tokens only between words."""
    added, decoder = tokenizer.get("added_tokens"), config.get("added_tokens_decoder")
    entries = [*(added if isinstance(added, list) else []), *(decoder.values() if isinstance(decoder, dict) else [])]
    return {
        str(entry.get("content"))
        for entry in entries
        if isinstance(entry, dict) and any(entry.get(flag) for flag in ("lstrip", "rstrip", "single_word"))
    }


def _around(tokens: dict[int, Token], eager: list[str]) -> Iterator[str]:
    """Put texts around some special tokens; not around those that take the spaces beside them."""
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
