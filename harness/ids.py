"""What an id is: a text, compared in Unicode NFC without blanks around it; a number only where all of a file are.

    users = ids.column(table["user_id"], path, "user_id")    # int64, or text in the form in which ids are compared

`007`, `07` and `7` are three ids. A column of ids is one of numbers where each is a canonical whole number (as int64
is printed: no zeros, plus or blanks before it); a single other id makes it a column of texts, `7` included. Every
reader of ids uses the functions below; in SQL, `WHOLE` and `STRIPPED` say the same of one text.
"""
import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.errors import WorkError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

USERS = ("user userid uid username userhash useruuid usermboxsha1 usersha1 listener listenerid member memberid "
         "account accountid customer customerid reviewerid msno")     # usual names of a column, as `plain` writes them
ITEMS = ("item itemid iid itemhash track trackid trackuri spotifytrackuri song songid songhash movie movieid "
         "recording recordingid recordingmbid artist artistid artistmbid product productid parentasin asin music "
         "musicid traid")
WHOLE = "coalesce(try_cast({0} as bigint)::varchar = {0}, false)"     # SQL: the text {0} is a canonical whole number
SPACES = ("\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200b)))
          + "\u2028\u2029\u202f\u205f\u3000")     # what str.strip takes away
STRIPPED = (f"case when regexp_matches({{0}}, '^[{SPACES}]|[{SPACES}]$') then trim({{0}}, '{SPACES}') else {{0}} end"
            )      # SQL: the text {0} as str.strip leaves it; looking first takes an eighth of the time
TYPED = re.compile(r":(token|token_seq|float|float_seq)$", re.IGNORECASE)
FLOAT = r"^-?\d+\.0*$"      # a whole number as pandas writes it beside a missing one
SHOWN = 3                   # ids named in a sentence
KEPT = 100_000              # ids in another form that are counted exactly


def plain(name: str) -> str:
    """A column's name for comparison: lower case, without RecBole's type, without anything but letters and digits."""
    return re.sub(r"[^0-9a-z]", "", str(name).strip().lower().rpartition(":")[0] if TYPED.search(str(name))
                  else str(name).strip().lower())


def normal(text: str) -> str:
    """The form in which an id is compared."""
    return unicodedata.normalize("NFC", text.strip())


def unpadded(text: str) -> str:
    """An id of digits as a program that reads numbers leaves it, without the zeros before it; other ids as compared."""
    text = normal(text)
    return text.lstrip("0") or "0" if text.isascii() and text.isdecimal() else text


def normalised(texts: "pa.Array") -> "pa.Array":
    """`normal` of an arrow array of texts, the same array where nothing changes."""
    import pyarrow.compute as pc
    changed = pc.utf8_normalize(pc.utf8_trim_whitespace(texts), form="NFC")
    return texts if changed.equals(texts) else changed


def numbers(texts: "pa.Array") -> "pa.Array | None":
    """Texts (N,) as int64 (N,) where every one is a canonical whole number, else None; an empty array is of numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc
    plainly = _only_digits(texts)
    if plainly is False:
        return None
    try:
        values = pc.cast(texts, pa.int64())
    except pa.ArrowInvalid:
        return None
    return values if plainly or pc.cast(values, texts.type).equals(texts) else None


def first_other(texts: "pa.Array") -> int:
    """The place of the first text that is no canonical whole number; there is one, as `numbers` has said."""
    low, high = 0, len(texts)       # texts[:low] are numbers, texts[:high] are not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if numbers(texts[:middle]) is None else (middle, high)
    return low


def _only_digits(texts):
    """True where each text is digits without a zero before them, False where one has such a zero, None for others.

    Looks at the bytes, as this is done for each row of a log: printing the numbers again takes four times as long.
    """
    import numpy as np
    import pyarrow as pa
    if not len(texts) or texts.null_count or not pa.types.is_string(texts.type):
        return None
    _, offsets, data = texts.buffers()
    offsets = np.frombuffer(offsets, np.int32)[texts.offset:texts.offset + len(texts) + 1]
    if data is None or (offsets[1:] == offsets[:-1]).any():
        return None
    data = np.frombuffer(data, np.uint8)[:offsets[-1]]
    if (data[offsets[0]:] - ord("0") > 9).any():        # uint8: what lies below 0 wraps around
        return None
    return not ((data[offsets[:-1]] == ord("0")) & (np.diff(offsets) > 1)).any()


class Forms:
    """Ids that are written in another form than the one they are compared in, to be named once the file is read."""

    def __init__(self):
        self.other = {}     # an id as written: its form for comparison

    def add(self, texts: "pa.Array", forms: "pa.Array") -> None:
        """Remember where `forms` (N,), the result of `normalised`, differ from `texts` (N,)."""
        import pyarrow.compute as pc
        if forms is not texts and len(self.other) < KEPT:
            changed = pc.not_equal(texts, forms)
            self.other.update(zip(texts.filter(changed).to_pylist(), forms.filter(changed).to_pylist(), strict=True))

    def sentence(self, what: str) -> str:
        """One sentence that names some of them, '' where there is none; `what` says whose ids they are."""
        if not self.other:
            return ""
        some = ", ".join(f"{ascii(a)} as {ascii(b)}" for a, b in list(self.other.items())[:SHOWN])
        count = len(self.other) if len(self.other) < KEPT else f"{KEPT} or more"
        return (f"{what}: {count} ids are compared in another form than they are written in (Unicode NFC, without "
                f"blanks around them): {some}")


def column(values: "pa.ChunkedArray", where: object, name: str, forms: Forms | None = None) -> "pa.Array":
    """A column of ids of any type as int64 (N,) or, where one does not fit, as text (N,) in the form for comparison.

    Texts, large or not, dictionaries of them, signed and unsigned integers are read. WorkError that names the column
    `name` of the file `where` for other types, missing and empty ids, and ids that are floats.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    flat = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if pa.types.is_dictionary(flat.type):
        flat = pc.cast(flat, flat.type.value_type)
    if flat.null_count:
        raise WorkError(f"{where}: {name} must be ids without gaps, but {flat.null_count} rows have none")
    if pa.types.is_unsigned_integer(flat.type) and len(flat) and pc.max(flat).as_py() >= 1 << 63:
        return pc.cast(flat, pa.string())
    if pa.types.is_integer(flat.type):
        return pc.cast(flat, pa.int64())
    if not (pa.types.is_string(flat.type) or pa.types.is_large_string(flat.type)
            or pa.types.is_string_view(flat.type)):
        shown = f", such as {flat[0].as_py()!r}" if len(flat) else ""
        raise WorkError(f"{where}: {name} must be ids, whole numbers or texts, but is {flat.type}{shown}")
    raw = pc.cast(flat, pa.large_string() if pa.types.is_large_string(flat.type) else pa.string())
    coded = pc.dictionary_encode(raw)
    written = coded.dictionary
    texts = normalised(written)
    if forms is not None:
        forms.add(written, texts)
    if pc.any(pc.equal(texts, "")).as_py():
        raise WorkError(f"{where}: {name} is empty in a row; every row needs an id")
    if (whole := numbers(texts)) is not None:
        return whole.take(coded.indices)
    if pc.all(pc.match_substring_regex(texts, FLOAT)).as_py():
        raise WorkError(f"{where}: {name} holds {texts[0].as_py()!r}, a whole number written as a float; write it "
                        "without the point")
    return pc.cast(texts, pa.string()).take(coded.indices)


def shared(first: "pa.Array", second: "pa.Array") -> "tuple[np.ndarray, np.ndarray, list[str] | None]":
    """Two results of `column` as int64 arrays in one numbering, and the ids it numbers (None: the numbers are the ids).

    Where either is of texts, both are: the ids of both, sorted, are numbered from 0.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    if pa.types.is_integer(first.type) and pa.types.is_integer(second.type):
        return first.to_numpy(), second.to_numpy(), None
    first, second = pc.cast(first, pa.string()), pc.cast(second, pa.string())
    names = pc.unique(pa.chunked_array([first, second]))
    names = names.take(pc.sort_indices(names))
    codes = [pc.cast(pc.index_in(texts, value_set=names), pa.int64()).to_numpy() for texts in (first, second)]
    return codes[0], codes[1], names.to_pylist()


def clash(texts: Sequence[str]) -> tuple[str, str] | None:
    """Two of these distinct texts that differ only in form, None where no two do."""
    seen: dict[str, str] = {}
    for text in texts:
        if (other := seen.setdefault(normal(text), text)) != text:
            return other, text
    return None


def is_item_name(name: str) -> bool:
    """Whether a column's name is one of the usual names of the item."""
    return plain(name) in ("id", *ITEMS.split())


def unlike_the_rest(first: str, rest: Sequence[str]) -> bool:
    """Whether the first of a list of ids looks like none of the others, as a header does: by signs, or by length."""
    def signs(text):
        return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "0", text))
    lengths, kinds = {len(text) for text in rest}, {signs(text) for text in rest}
    return len(rest) > 1 and (lengths.isdisjoint({len(first)}) and len(lengths) == 1
                              or signs(first) not in kinds and len(kinds) <= 2)
