import re
from dataclasses import asdict

import pytest

from benchmarks.serving_cases import CASES
from benchmarks.serving_plot import by_connections, by_dim, by_length, by_uids
from benchmarks.serving_report import (
    PAGE,
    SECTIONS,
    between_marks,
    broadcast,
    cases_table,
    cpu_table,
    figure,
    footprint,
    head,
    peers_table,
    serving,
)


def case(name, **changes):
    rate = changes.pop("requests_per_s", 100.0)
    return {
        "case": name,
        **asdict(CASES[name]),
        "threads": 1,
        "requests_per_s": rate,
        "texts_per_s": rate * CASES[name].texts,
        "p50_ms": 2.0,
        "p99_ms": 8.0,
        "bad_statuses": 1,
        "socket_errors": 2,
        "engine_texts_per_s": 125.0,
        "core_ms": {"engine": 10.0, "http": 0.6, "replica": 0.5, "haproxy": 0.1, "wrk": 0.02},
        **changes,
    }


def cells(table, row):
    return [cell.strip() for cell in table.splitlines()[row + 2].strip("|").split("|")]


@pytest.mark.parametrize(
    ("value", "written"), [(None, "-"), (0.7512, "0.751"), (12.345, "12.3"), (1742.9, "1,743"), (99.96, "100")]
)
def test_figures_have_three_digits_that_count(value, written):
    assert figure(value) == written


def test_a_case_without_encoding_has_no_ratio_to_the_engine():
    table = cases_table([case("base", of_engine=0.8, of_engine_all_cores=0.5), case("repeated-64")])
    assert cells(table, 0) == ["base", "100", "100", "2", "8", "0.8", "0.5", "3"]
    assert cells(table, 1)[5:7] == ["-", "-"]


def test_every_role_has_its_core_ms_and_one_that_took_none_has_zero():
    header = cells(cpu_table([case("base")]), -2)
    row = cells(cpu_table([case("base")]), 0)
    assert dict(zip(header, row, strict=True)) == {
        "case": "base",
        "encoding": "10",
        "HTTP + routing": "0.6",
        "of which replica": "0.5",
        "of which haproxy": "0.1",
        "of which learner": "0",
        "of which controller": "0",
        "of which other": "0",
        "beside it wrk": "0.02",
    }


def test_the_other_tables_show_their_figures():
    peer = {"case": "c", "service": "s", "texts_per_s": 50.0, "p50_ms": 3.0, "tidegate_is_times": 4.5, "failed": 0}
    assert cells(peers_table([peer]), 0) == ["c", "s", "50", "3", "4.5", "0"]
    memory = {"uids": 4096, "dim": 384, "rss_mib": 500.0, "uss_mib": 300.0, "head_mib": 6.0}
    text = footprint({"memory": [memory], "cold_start_s": [9.0, 8.5]})
    assert cells(text, 0) == ["N = 4,096, D = 384", "500", "300", "6"]
    assert text.endswith("s: 9, 8.5.")
    row = {
        "uids": 4096,
        "dim": 768,
        "replicas": 2,
        "p50_ms": 40.0,
        "p99_ms": 50.0,
        "max_ms": 60.0,
        "first_max_ms": 70.0,
    }
    assert cells(broadcast({"results": [row]}), 0) == ["4,096 x 768", "2", "40", "50", "60", "70"]
    row = {"uids": 256, "dim": 384, "score_ms": 0.2, "select_ms": 1.0, "encode_ms": 600.0, "of_encode": 0.002}
    assert cells(head({"results": [row]}), 0) == ["256", "384", "0.2", "1", "600", "0.2%"]
    text = serving({"cases": [case("base")], "gemm_gflops": {"bf16, 1 threads": 123.4}})
    assert "encodes with: 1." in text
    assert "bf16, 1 threads: 123" in text


def test_the_page_has_the_marks_of_every_section_and_only_what_is_between_them_changes():
    page = PAGE.read_text(encoding="utf-8")
    for name in SECTIONS:
        written = between_marks(page, name, "| new |")
        assert f"<!-- {name}: begin -->\n\n| new |\n\n<!-- {name}: end -->" in written
        pattern = re.compile(f"<!-- {name}: begin -->.*<!-- {name}: end -->", re.DOTALL)
        assert pattern.sub("", written) == pattern.sub("", page)
    with pytest.raises(ValueError, match="once each"):
        between_marks(page + page, "head", "")


def test_the_pictures_series_are_of_one_thing_varied_at_a_time():
    others = ("texts-32", "base-4096", "dense-256", "repeated-uniform-64")
    names = ("base", "connections-1", "repeated-64", "short", *others)
    cases = [case(name, requests_per_s=50.0 + place) for place, name in enumerate(names)]
    rates, waits = by_connections(cases)
    assert rates == {"fresh, 8-180 words": [(64, 50.0), (1, 51.0)], "repeated, 4-12 words": [(64, 52.0)]}
    assert waits["fresh, 8-180 words"] == [(64, 2.0), (1, 2.0)]
    found = by_length(cases)
    assert found["over HTTP"] == [(94, pytest.approx(20.0)), (8, pytest.approx(1000 / 53))]
    assert found["encoder alone"] == [(94, 8.0), (8, 8.0)]
    rows = [
        {"uids": uids, "dim": dim, "score_ms": 1.0 * dim, "select_ms": 2.0, "encode_ms": 9.0}
        for uids, dim in ((256, 384), (256, 768), (4096, 384))
    ]
    assert by_uids(rows)["score, D = 384"] == [(256, 384.0), (4096, 384.0)]
    assert by_dim(rows) == {"N = 256": [(384, 384.0), (768, 768.0)]}
