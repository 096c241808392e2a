"""`calicoctl ipam show --html`: one page that needs nothing else, whatever is in the records."""

from __future__ import annotations

import base64
import hashlib
import re
import stat
from html.parser import HTMLParser
from pathlib import Path

import pytest

from datastore import keys

from .calicoctl_kit import JUST_NOW, Place, cooling, pod

VOID = {"meta", "input", "rect"}
EVIL = '"><script>alert(1)</script>\x1b[2J\ud800&amp;'


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A datastore with a pool of blocks and a small one, in each of which something is in use."""
    found = Place(tmp_path)
    found.pool("p", "10.0.0.0/22", blockSize=26)
    found.block("10.0.0.0/26", "n1", range(22))
    found.block("10.0.0.64/26", "n2", {0: pod("a", "n3")})
    found.pool("small", "10.9.0.0/28", blockSize=30)
    found.block("10.9.0.0/30", "n2", {0: pod("web", "n2"), 1: cooling()})
    found.reserve("r", "10.0.3.0/24")
    return found


class Page(HTMLParser):
    """A page taken apart: its elements, its text, and whether each element is closed where it should be."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []
        self.text = ""
        self.code = {"style": "", "script": ""}
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Expect the end of the innermost open element."""
        if tag not in VOID:
            assert self.inside.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note text, and code apart."""
        if self.inside and self.inside[-1] in self.code:
            self.code[self.inside[-1]] += data
        else:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of each element of a name."""
        return [attributes for name, attributes in self.elements if name == tag]

    def tips(self) -> list[str]:
        """Return the tooltips of the cells."""
        return [str(attributes["title"]) for attributes in self.all("i") if "title" in attributes]


def page(place: Place) -> Page:
    return Page(place.ok("ipam", "show", "--html=-", "--node=n1"))


def test_a_cell_for_each_block_and_each_address_of_a_small_pool(place: Place) -> None:
    found = page(place)
    assert found.inside == []
    tips = found.tips()
    assert len(tips) == 16 + 16
    assert tips[:3] == ["10.0.0.0/26: 22 of 64 in use, n1", "10.0.0.64/26: 1 of 64 in use, n2", "10.0.0.128/26 free"]
    assert tips[12] == "10.0.3.0/26 reserved"
    assert tips[16:20] == [
        "10.9.0.0: pod default/web handle net.web\nin a block of n2",
        f"10.9.0.1: released at {JUST_NOW}\nin a block of n2",
        "10.9.0.2: other\nin a block of n2", "10.9.0.3: other\nin a block of n2"]


def test_kinds_and_levels_are_classes(place: Place) -> None:
    classes = [attributes["class"] for attributes in page(place).all("i") if "title" in attributes]
    assert classes[:3] == ["ours l2", "borrowed l1", "free"]
    assert classes[12:18] == ["reserved"] * 4 + ["other l4", "cooling l4"]


def test_numbers_and_tables(place: Place) -> None:
    text = page(place).text
    assert "23 of 1,024 addresses in use (2%), 745 free, 256 reserved" in text
    assert "one cell is one block of 64 addresses" in text
    assert re.search(r"Node\s*Blocks\s*In use\s*n1122\s*n211", text)


def test_it_needs_nothing_from_elsewhere(place: Place) -> None:
    """No address, no import, no file: and the policy names the style and the script of the page by their digests."""
    source = place.ok("ipam", "show", "--html=-")
    assert not re.search(r"https?:|//[a-z]|url\(|@import|src=|href=", source)
    found = Page(source)
    policy = found.all("meta")[1]
    assert policy["http-equiv"] == "Content-Security-Policy"
    for name, code in found.code.items():
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in str(policy["content"])
    assert not any("style" in attributes for _, attributes in found.elements)


def test_text_of_records_is_text(place: Place) -> None:
    """Names of pools, nodes and pods: nothing of them becomes an element or an attribute."""
    place.store.create(keys.ippool("evil"), {
        "metadata": {"name": f"x{EVIL}"}, "spec": {"cidr": "10.8.0.0/28", "blockSize": 30}})
    place.block("10.8.0.0/30", f"n{EVIL}", {0: {"handle_id": EVIL, "secondary": {"pod": EVIL, "node": EVIL}}})
    place.block("10.7.0.0/30", f"m{EVIL}", [0])
    found = Page(place.ok("ipam", "show", "--html=-", f"--node=k{EVIL[:-6]}"))
    assert len(found.all("script")) == 1
    assert "alert" not in found.code["script"]
    assert {name for attributes in found.all("i") for name in attributes} == {"class", "title"}
    shown = '"><script>alert(1)</script>\\x1b[2J\\ud800&amp;'
    assert any(tip.startswith("10.8.0.0: pod ?/" + shown) for tip in found.tips())
    assert all(letter + shown in found.text for letter in "xnm")
    assert found.text.isprintable() or set(filter(lambda char: not char.isprintable(), found.text)) == {"\n"}


def test_a_file_is_put_in_place_whole_and_private(place: Place) -> None:
    path = place.folder / "map.html"
    path.write_text("an older page")
    path.chmod(0o644)
    before = path.stat().st_ino
    assert place.ok("ipam", "show", f"--html={path}", "--node=n1") == ""
    assert Page(path.read_text()).inside == []
    assert path.stat().st_ino != before
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(file.name for file in place.folder.iterdir()) == ["calicoctl.cfg", "datastore", "map.html"]


def test_a_file_that_cannot_be_written_is_named_and_leaves_nothing(place: Place) -> None:
    (place.folder / "folder").mkdir()
    for path in (place.folder / "none" / "map.html", place.folder / "folder"):
        assert str(path) in place.fails("ipam", "show", f"--html={path}")
    assert sorted(file.name for file in place.folder.iterdir()) == ["calicoctl.cfg", "datastore", "folder"]


def test_a_large_pool_in_cells_of_blocks(place: Place) -> None:
    """16,384 blocks fit a page one by one; a vast pool has its gaps told."""
    place.pool("big", "10.64.0.0/12")
    place.pool("six", "fd00::/48")
    place.block("fd00::40/122", "n1", [1])
    found = page(place)
    assert len(found.tips()) == 16 + 16 + 16384 + 64
    assert "1.8889e+22 blocks not cut" in found.text


def test_blocks_in_no_pool(place: Place) -> None:
    place.block("172.16.0.0/30", None, [0])
    text = page(place).text
    assert "Blocks in no pool" in text
    assert "172.16.0.0/30no node" in text
