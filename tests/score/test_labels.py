# SPDX-License-Identifier: Apache-2.0
"""Files of labels, as people write them, and samples by their names."""

from __future__ import annotations

import json

import numpy as np
import pytest

from analyzer.errors import ConfigError
from analyzer.score.labels import kind_of, read_boxes, read_classes


@pytest.fixture
def csv(tmp_path):
    def make(text):
        path = tmp_path / "labels.csv"
        path.write_text(text, encoding="utf-8")
        return path

    return make


@pytest.mark.parametrize(
    "text",
    [
        "cat.jpg,3\ndog.jpg,5\n",
        "image,label\ncat.jpg,3\ndog.jpg,5\n",
        "\ufeffname,class_index,word\ncat,3,cat\n\ndog,5,dog\n",
        "class,file\n3,images/cat.jpg\n5,images/dog.jpg\n",
        "picture,person\nval/cat.jpg,3\nval/dog.jpg,5\n",
    ],
)
def test_classes_with_and_without_a_heading(csv, text):
    """Columns are told by known headings, else name first and class second."""
    assert read_classes(csv(text), ["cat.png", "dog.png"]) == {"cat.png": 3, "dog.png": 5}


def test_rows_of_arrays_go_by_number(csv):
    """index,class; rows without a label are left out."""
    assert read_classes(csv("index,class_index\n0,2\n2,5\n"), ["0", "1", "2"]) == {"0": 2, "2": 5}


def test_folders_tell_equal_names_apart(csv):
    """As far as they are given; where they are not enough that is an error."""
    path = csv("train/1.jpg,0\nval/1.jpg,1\n")
    assert read_classes(path, ["val/1.jpg"]) == {"val/1.jpg": 1}
    with pytest.raises(ConfigError, match=r"two labels for sample '1\.jpg'"):
        read_classes(path, ["1.jpg"])


def test_names_that_do_not_match_are_both_named(csv):
    """The first of either side."""
    with pytest.raises(ConfigError, match=r"first sample is 'a\.jpg'.*is for 'b\.jpg'"):
        read_classes(csv("b.jpg,1\n"), ["a.jpg"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("cat.jpg\n", "has 1 column"),
        ("cat.jpg,3\ndog.jpg,five\n", "line 2: 'five' is no class number"),
        ("name,label\ncat.jpg,-1\n", "line 2: '-1' is no class number"),
    ],
)
def test_what_is_no_table_of_classes(csv, text, message):
    """Each error says where and what."""
    with pytest.raises(ConfigError, match=message):
        read_classes(csv(text), ["cat.jpg"])


def test_yolo_lines_are_centre_and_sides(tmp_path):
    """Shares of the picture; an outline becomes the box around it; an empty file has no boxes."""
    (tmp_path / "a.txt").write_text("6 0.5 0.25 0.2 0.1\n")
    (tmp_path / "b.txt").write_text("1 0.1 0.2 0.5 0.2 0.3 0.6\n")
    (tmp_path / "c.txt").write_text("")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    found = read_boxes(tmp_path, ["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    assert found["a.jpg"].boxes == pytest.approx(np.array([[0.4, 0.2, 0.6, 0.3]]))
    assert found["b.jpg"].boxes == pytest.approx(np.array([[0.1, 0.2, 0.5, 0.6]]))
    assert found["a.jpg"].classes.tolist() == [6]
    assert found["c.jpg"].boxes.shape == (0, 4)
    assert "d.jpg" not in found


@pytest.mark.parametrize(
    "line", ["cat 0.5 0.5 0.1 0.1", "1 0.5 0.5 0.1", "-1 0 0 1 1", "1.5 0 0 1 1"]
)
def test_what_is_no_yolo_line(tmp_path, line):
    """The file and the line are named."""
    (tmp_path / "a.txt").write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(ConfigError, match=r"a\.txt, line 2: .* is no box"):
        read_boxes(tmp_path, ["a"])


def test_coco_categories_count_from_zero(tmp_path):
    """Ids 3 and 90 are classes 0 and 1; pixels become shares; crowds are marked."""
    path = tmp_path / "instances.json"
    annotations = [
        {"image_id": 7, "category_id": 90, "bbox": [10, 20, 30, 40], "iscrowd": 0},
        {"image_id": 7, "category_id": 3, "bbox": [0, 0, 100, 50], "iscrowd": 1},
    ]
    table = {
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 100, "height": 200},
            {"id": 8, "file_name": "b.jpg", "width": 100, "height": 200},
        ],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 3, "name": "car"}],
        "annotations": annotations,
    }
    path.write_text(json.dumps(table))
    found = read_boxes(path, ["a.png", "b.png"])
    assert found["a.png"].boxes == pytest.approx(np.array([[0.1, 0.1, 0.4, 0.3], [0, 0, 1, 0.25]]))
    assert found["a.png"].classes.tolist() == [1, 0]
    assert found["a.png"].is_crowd.tolist() == [False, True]
    assert len(found["b.png"].boxes) == 0


@pytest.mark.parametrize("text", ["{}", "[1]", "{", '{"images": [{}], "categories": []}'])
def test_json_of_something_else(tmp_path, text):
    """An error of ours, not of the parser."""
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="is no COCO file"):
        read_boxes(path, ["a"])


def test_a_folder_without_labels_and_a_path_that_is_not_there(tmp_path):
    """Both say what would do."""
    with pytest.raises(ConfigError, match=r"has no \.txt files"):
        read_boxes(tmp_path, ["a"])
    with pytest.raises(ConfigError, match="does not exist"):
        kind_of(tmp_path / "nothing.csv")
    (tmp_path / "labels.xml").write_text("")
    with pytest.raises(ConfigError, match="no file of labels that is known"):
        kind_of(tmp_path / "labels.xml")
