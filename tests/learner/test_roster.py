import pytest

from gating import NO_HOTKEY
from learner.chain import MetagraphSource, build_source, check_source
from learner.config import RosterChain
from learner.errors import RosterError
from learner.roster import RosterSource, find_roster


@pytest.fixture
def source(tmp_path):
    """Writes a roster and gives its source."""

    def write(text, **settings):
        path = tmp_path / "roster.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return RosterSource(path, **settings)

    return write


def test_experts_are_numbered_by_their_place_in_the_list(source):
    view = source("experts:\n  - name: anna\n  - {hotkey: 5F3s, available: false}\n  - {name: carl}\n").fetch_view()
    assert view.hotkeys == ("anna", "5F3s", "carl")
    assert view.available == (True, False, True)
    assert view.registered_at == (None, None, None)


def test_uids_may_be_given_in_any_order_with_holes_between(source):
    view = source("experts: [{uid: 3, name: d}, {uid: 0, name: a}, {name: c}]", netuid=7).fetch_view()
    assert view.hotkeys == ("a", NO_HOTKEY, "c", "d")
    assert view.available == (True, False, True, True)
    assert view.netuid == 7


def test_the_file_is_read_again_at_every_fetch(source):
    roster = source("experts: [{name: a}]")
    assert roster.fetch_view().hotkeys == ("a",)
    source("experts: [{name: b}, {name: c}]")
    assert roster.fetch_view().hotkeys == ("b", "c")


def test_the_block_is_the_time_and_never_goes_back(source):
    times_ms = iter([1_000, 2_000, 500, 500, 1_500, 3_000])
    roster = source("experts: [{name: a}]", now_ms=lambda: next(times_ms))
    assert [roster.fetch_view().block for _ in range(6)] == [1_000, 2_000, 2_001, 2_002, 2_003, 3_000]


def test_a_roster_that_cannot_be_read_uses_up_no_block(source):
    roster = source("experts: [{name: a}]", now_ms=lambda: 1)
    assert roster.fetch_view().block == 1
    source("experts: []")
    with pytest.raises(RosterError):
        roster.fetch_view()
    source("experts: [{name: a}]")
    assert roster.fetch_view().block == 2


MALFORMED = {
    "empty": ("", "line 1: the file: Input should be a valid dictionary"),
    "a_list": ("- name: a\n", "line 1: the file: Input should be a valid dictionary"),
    "no_experts": ("netuid: 1\n", "line 1: experts: Field required"),
    "nobody": ("experts: []\n", "line 1: experts: List should have at least 1 item"),
    "not_a_list": ("experts: {uid: 1}\n", "line 1: experts: Input should be a valid list"),
    "an_unknown_key": ("experts:\n  - name: a\nextra: 1\n", "line 3: extra: Extra inputs are not permitted (got 1)"),
    "no_mapping": ("experts:\n  - name: a\n  - b\n", "line 3: experts.1: Input should be a valid dictionary"),
    "an_unknown_field": ("experts:\n  - name: a\n    color: red\n", "line 3: experts.0.color: Extra inputs"),
    "no_identity": ("experts:\n  - name: a\n  - uid: 1\n", "line 3: experts.1: give either hotkey or name (got"),
    "two_identities": ("experts:\n  - {name: a, hotkey: b}\n", "line 2: experts.0: give either hotkey or name"),
    "a_negative_uid": ("experts:\n  - name: a\n    uid: -1\n", "line 3: experts.0.uid: Input should be greater than"),
    "a_huge_uid": ("experts:\n  - {name: a, uid: 65536}\n", "line 2: experts.0.uid: Input should be less than"),
    "a_word_for_a_uid": (
        "experts:\n  - {name: a, uid: one}\n",
        "line 2: experts.0.uid: Input should be a valid int",
    ),
    "a_number_for_a_name": (
        "experts:\n  - name: 12\n",
        "line 2: experts.0.name: Input should be a valid str",
    ),
    "an_empty_name": ("experts:\n  - name: ''\n", "line 2: experts.0.name: String should have at least 1 character"),
    "an_empty_hotkey": ("experts:\n  - hotkey: ''\n", "line 2: experts.0.hotkey: String should have at least 1"),
    "half_available": ("experts:\n  - {name: a, available: half}\n", "line 2: experts.0.available: Input should be"),
    "a_uid_twice": ("experts:\n  - {name: a, uid: 1}\n  - name: b\n", "line 3: experts.1.uid: uid 1 is given twice"),
    "a_name_twice": ("experts:\n  - name: a\n  - name: a\n", "line 3: experts.1.name: 'a' already holds uid 0"),
    "a_hotkey_twice": (
        "experts:\n  - name: a\n  - uid: 4\n    hotkey: a\n",
        "line 4: experts.1.hotkey: 'a' already holds uid 0",
    ),
    "no_yaml": ("experts: [", "is not YAML"),
    "no_date": ("experts: 2024-99-99", "is not YAML"),
    "no_text": (b"\xff\xfe\xfa", "is not YAML"),
    "a_tag": ("experts: !!python/object:os.system {}\n", "is not YAML"),
}


@pytest.mark.parametrize(("text", "says"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_roster_is_refused_by_file_line_entry_and_field(source, text, says):
    roster = source(text)
    with pytest.raises(RosterError) as refusal:
        roster.fetch_view()
    assert str(refusal.value).startswith(f"roster {roster.path}")
    assert says in str(refusal.value)


@pytest.mark.parametrize(("name", "says"), [("absent.yaml", "No such file"), ("", "Is a directory")])
def test_a_roster_that_is_not_there_is_refused_with_the_remedy(tmp_path, name, says):
    with pytest.raises(RosterError, match=f"cannot be read: {says}.*; give its path as chain.roster"):
        RosterSource(tmp_path / name).fetch_view()


def test_a_relative_roster_is_found_in_the_working_folder_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    beside_the_packages = find_roster("roster.yaml")
    assert beside_the_packages.is_absolute()
    assert beside_the_packages.exists()
    (tmp_path / "roster.yaml").write_text("experts: [{name: a}]")
    assert find_roster("roster.yaml").resolve() == tmp_path / "roster.yaml"
    assert find_roster("absent.yaml") == find_roster("absent.yaml").relative_to(".")
    assert find_roster(str(tmp_path / "elsewhere.yaml")) == tmp_path / "elsewhere.yaml"


def test_the_configured_source_is_built(tmp_path):
    (tmp_path / "mine.yaml").write_text("experts: [{name: a}]")
    built = build_source(RosterChain(roster=str(tmp_path / "mine.yaml"), netuid=3))
    assert isinstance(built, MetagraphSource)
    assert built.fetch_view().netuid == 3


def test_the_roster_that_ships_has_256_experts(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    view = build_source(RosterChain()).fetch_view()
    assert view.n == 256
    assert all(view.available)


def test_a_roster_is_read_when_its_settings_are_checked(tmp_path):
    check_source(RosterChain())
    with pytest.raises(RosterError, match="cannot be read"):
        check_source(RosterChain(roster=str(tmp_path / "absent.yaml")))


def test_a_roster_tells_what_it_is_and_has_no_blocks_of_its_own(source):
    roster = source("experts: [{name: a}]", now_ms=lambda: 5)
    block = roster.fetch_view().block
    roster.disconnect()
    assert roster.fetch_block() == block == 5
    assert roster.describe() == {"source": "roster"}
    roster.close()
