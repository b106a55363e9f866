"""Texts of files: lines and tables, with and without labels."""

import pytest

from unweave.core.errors import InputError
from unweave.datasets.text_file import TextFile


def load(path, split="train", **options):
    return TextFile(test_share=0.5, **options).load(split, path)


def test_lines_are_texts_and_the_split_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\n\n  two \nthree\nfour\n", encoding="utf-8")
    found = sorted([*load(path).texts, *load(path, "test").texts])
    assert found == ["four", "one", "three", "two"]
    assert load(path).class_names == ["text"]
    assert load(path).id == load(path).id != load(path, "test").id


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'text,label\n"a, b",pos\nc,neg\nd,pos\ne,neg\n'),
        ("a.tsv", "text\tlabel\na, b\tpos\nc\tneg\nd\tpos\ne\tneg\n"),
        (
            "a.jsonl",
            '{"text": "a, b", "label": "pos"}\n{"text": "c", "label": "neg"}\n'
            '{"text": "d", "label": "pos"}\n{"text": "e", "label": "neg"}\n',
        ),
    ],
)
def test_labels_of_a_table_are_classes(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    parts = [load(tmp_path / name, split) for split in ("train", "test")]
    said = {
        text: part.class_names[label] for part in parts for text, label in zip(part.texts, part.labels, strict=True)
    }
    assert said == {"a, b": "pos", "c": "neg", "d": "pos", "e": "neg"}


def test_a_folder_keeps_its_own_split(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\na,1\nb,0\n")
    (tmp_path / "test.csv").write_text("text,label\nc,1\n")
    assert (load(tmp_path).texts, load(tmp_path, "test").texts) == (["a", "b"], ["c"])
    assert load(tmp_path, "test").labels.tolist() == [1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\xff\xfe\xff", "no UTF-8"),
        ("a.jsonl", b"{", "line 1: no JSON"),
        ("a.jsonl", b"[1]", "a list, not an object"),
        ("a.jsonl", b'{"text": 3}', "row 1: text is a int"),
        ("a.csv", b"words\na\n", "which column holds the texts"),
        ("a.txt", b"\n\n", "holds no text"),
        ("a.csv", b"text,label\na\n", "row 1 has no label"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        load(tmp_path / name)
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / "gone.txt")
    with pytest.raises(InputError, match="holds 0 files train"):
        load(tmp_path)
