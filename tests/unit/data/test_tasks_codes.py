"""Code sets: prefixes, and descendants through generated vocabularies, beside a walk over the
tree.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from concordant.core.errors import ConfigError, RecordError
from concordant.data.tasks import build_cohort, read_task
from concordant.data.tasks.codes import CodeMatcher
from meds_tasks_fixture import day, index_table, write_meds


def task(*codes, descendants=True):
    return {
        "name": "t",
        "code_sets": {"x": {"codes": list(codes), "descendants": descendants}},
        "index": {"table": "index.parquet"},
        "outcome": {"codes": ["x"]},
    }


def who_has_the_outcome(meds, codes, given, **more):
    """Give each code to a subject of its own, and return the codes that count."""
    rows = [
        row
        for number, code in enumerate(codes)
        for row in ((number, day(1), code), (number, day(2), "OTHER"))
    ]
    write_meds(meds, rows)
    cohort = build_cohort(
        given, meds, index=index_table(*((number, day(0)) for number in range(len(codes)))), **more
    )
    return {
        codes[subject] for subject in cohort.table.filter(pl.col("event") == 1)["subject_id"]
    }, cohort


def draw_parents(seed, n=60):
    """Draw a directed graph.

    Most codes have one or two parents of a lower number, a few close a circle.
    """
    rng = np.random.default_rng(seed)
    parents = {
        f"V/{number}": [f"V/{above}" for above in rng.integers(0, number, rng.choice([0, 1, 1, 2]))]
        for number in range(1, n)
    }
    parents["V/0"] = []
    parents["V/3"] = [*parents["V/3"], "V/40", "V/3"]
    return parents


def descendants(parents, roots):
    """Walk down from each code by itself."""
    found = set()

    def visit(code):
        if code not in found:
            found.add(code)
            for child, above in parents.items():
                if code in above:
                    visit(child)

    for root in roots:
        visit(root)
    return found


def write_codes(meds, parents):
    rows = [
        {"code": code, "description": None, "parent_codes": above or None}
        for code, above in parents.items()
    ]
    schema = {"code": pl.String, "description": pl.String, "parent_codes": pl.List(pl.String)}
    (meds / "metadata").mkdir(parents=True, exist_ok=True)
    pl.DataFrame(rows, schema=schema).write_parquet(meds / "metadata" / "codes.parquet")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("roots", [["V/1"], ["V/3", "V/7"], ["V/2*"]])
def test_descendants_follow_the_parents_of_the_dataset(tmp_path, seed, roots):
    parents = draw_parents(seed)
    write_codes(tmp_path, parents)
    started = [
        code
        for code in parents
        if any(
            code == root or (root.endswith("*") and code.startswith(root[:-1])) for root in roots
        )
    ]
    found, _ = who_has_the_outcome(tmp_path, list(parents), task(*roots))
    assert found == descendants(parents, started)
    without, _ = who_has_the_outcome(tmp_path, list(parents), task(*roots, descendants=False))
    assert without == set(started)


def test_a_parent_that_is_no_code_of_the_dataset_is_a_root_too(tmp_path):
    write_codes(
        tmp_path, {"ICD10CM/I21.4": ["SNOMED/57054005"], "SNOMED/57054005": ["SNOMED/22298006"]}
    )
    found, _ = who_has_the_outcome(
        tmp_path, ["ICD10CM/I21.4", "ICD10CM/J18.9"], task("SNOMED/22298006")
    )
    assert found == {"ICD10CM/I21.4"}


def write_vocabulary(folder, parents, form):
    """Write concept and concept_ancestor, the latter holding pairs at every distance and each
    code with itself.
    """
    folder.mkdir()
    number = {code: place + 1000 for place, code in enumerate(parents)}
    vocabulary, code = zip(*(one.split("/") for one in parents), strict=True)
    concept = pl.DataFrame(
        {
            "concept_id": list(number.values()),
            "concept_name": ['a "name'] * len(number),
            "vocabulary_id": vocabulary,
            "concept_code": code,
        }
    )
    pairs = [
        (number[above], number[below])
        for above in parents
        for below in descendants(parents, [above])
    ]
    ancestor = pl.DataFrame(
        pairs, schema=["ancestor_concept_id", "descendant_concept_id"], orient="row"
    )
    for name, table in (("concept", concept), ("concept_ancestor", ancestor)):
        if form == "parquet":
            table.write_parquet(folder / f"{name}.parquet")
        elif form == "athena":
            table.rename(str.upper).write_csv(
                folder / f"{name.upper()}.csv", separator="\t", quote_style="never"
            )
        else:
            table.write_csv(folder / f"{name}.csv")
    return folder


@pytest.mark.parametrize("form", ["parquet", "athena", "csv"])
def test_descendants_follow_concept_ancestor(tmp_path, form):
    parents = draw_parents(5)
    vocabulary = write_vocabulary(tmp_path / "omop", parents, form)
    found, cohort = who_has_the_outcome(
        tmp_path / "meds", list(parents), task("V/1", "V/5"), vocabulary=vocabulary
    )
    assert found == descendants(parents, ["V/1", "V/5"])
    assert cohort.flow.code_sets["x"]["codes"] == len(found)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("excluded", ["V/9", "V/1*"])
def test_what_a_set_is_without_goes_with_all_that_lies_below(tmp_path, seed, excluded):
    parents = draw_parents(seed)
    left_out = [
        code
        for code in parents
        if code == excluded or (excluded.endswith("*") and code.startswith(excluded[:-1]))
    ]
    given = task("V/0", "V/3", "V/1*")
    given["code_sets"]["x"]["without"] = [excluded]
    roots = ["V/0", "V/3", *(code for code in parents if code.startswith("V/1"))]
    vocabulary = write_vocabulary(tmp_path / "omop", parents, "parquet")
    write_codes(tmp_path / "a", parents)
    for meds, more in ((tmp_path / "a", {}), (tmp_path / "b", {"vocabulary": vocabulary})):
        found, _ = who_has_the_outcome(meds, list(parents), given, **more)
        assert found == descendants(parents, roots) - descendants(parents, left_out)
    given["code_sets"]["x"]["descendants"] = False
    found, _ = who_has_the_outcome(tmp_path / "c", list(parents), given)
    assert found == set(roots) - set(left_out)


def test_the_shipped_sets_leave_out_what_their_ontology_would_add(tmp_path):
    pe = read_task("pe_mortality").model_dump(mode="json")["code_sets"]["pe"]
    acute_mi = read_task("mace").model_dump(mode="json")["code_sets"]["acute_mi"]
    parents = {
        "SNOMED/706870000": ["SNOMED/59282003"],
        "SNOMED/133971000119108": ["SNOMED/59282003"],
        "SNOMED/200284000": ["SNOMED/59282003"],
        "ICD10CM/I26.99": ["SNOMED/59282003"],
        "ICD10CM/I27.82": ["SNOMED/133971000119108"],
        "SITE/OBSTETRIC": ["SNOMED/200284000"],
        "ICD10CM/O88.212": ["SNOMED/59282003"],
        "SNOMED/59282003": [],
    }
    write_codes(tmp_path / "pe", parents)
    given = task("-") | {"code_sets": {"x": pe}}
    found, _ = who_has_the_outcome(tmp_path / "pe", list(parents), given)
    assert found == {"SNOMED/59282003", "SNOMED/706870000", "ICD10CM/I26.99"}
    write_codes(
        tmp_path / "mi",
        {
            "SNOMED/57054005": [],
            "ICD9CM/410.71": ["SNOMED/57054005"],
            "ICD9CM/410.72": ["SNOMED/57054005"],
        },
    )
    codes = ["SNOMED/57054005", "ICD9CM/410.71", "ICD9CM/410.72"]
    found, _ = who_has_the_outcome(tmp_path / "mi", codes, given | {"code_sets": {"x": acute_mi}})
    assert found == set(codes[:2])


def test_without_an_ontology_descendants_are_refused_or_said_to_be_missing(tmp_path):
    codes = ["V/1", "V/2"]
    with pytest.raises(
        ConfigError,
        match=r"code_sets\.x\.descendants: .* no parent_codes in "
        r"metadata/codes\.parquet.*--vocabulary",
    ):
        who_has_the_outcome(tmp_path, codes, task("V/1"))
    found, cohort = who_has_the_outcome(tmp_path, codes, task("V/1", descendants="where_known"))
    assert found == {"V/1"}
    assert "the descendants of x are not known here" in cohort.flow.warnings[0]


def test_a_set_that_the_ontology_does_not_know_is_said(tmp_path):
    write_codes(tmp_path, {"V/1": [], "V/2": ["V/1"]})
    found, cohort = who_has_the_outcome(tmp_path, ["V/1", "W/1", "W/2"], task("W/*"))
    assert found == {"W/1", "W/2"}
    assert (
        "codes.parquet has none of the codes of x: only the listed codes count"
        in cohort.flow.warnings[0]
    )
    assert not who_has_the_outcome(tmp_path, ["V/1", "V/2"], task("V/1"))[1].flow.warnings


def test_parents_that_are_no_list_are_refused(tmp_path):
    (tmp_path / "metadata").mkdir()
    pl.DataFrame({"code": ["V/2"], "parent_codes": ["V/1"]}).write_parquet(
        tmp_path / "metadata" / "codes.parquet"
    )
    with pytest.raises(
        RecordError,
        match=r"codes\.parquet: column parent_codes is String; MEDS has a list of codes there",
    ):
        who_has_the_outcome(tmp_path, ["V/1", "V/2"], task("V/1"))


def test_an_incomplete_vocabulary_is_named(tmp_path):
    (tmp_path / "omop").mkdir()
    with pytest.raises(RecordError, match="no table concept_ancestor"):
        who_has_the_outcome(tmp_path / "meds", ["V/1"], task("V/1"), vocabulary=tmp_path / "omop")
    pl.DataFrame({"ancestor_concept_id": [1]}).write_csv(tmp_path / "omop" / "concept_ancestor.csv")
    with pytest.raises(RecordError, match=r"missing column\(s\) descendant_concept_id"):
        who_has_the_outcome(tmp_path / "meds", ["V/1"], task("V/1"), vocabulary=tmp_path / "omop")


def test_a_pattern_is_taken_literally():
    codes = pl.Series("code", ["A.1", "AX1", "A.12", "B (x) [y]/1", "B (x) [y]", "-c", None])
    assert CodeMatcher.of(["A.1*"]).among(codes).to_list() == ["A.1", "A.12"]
    assert CodeMatcher.of(["B (x) [y]*", "-c"]).among(codes).to_list() == [
        "B (x) [y]/1",
        "B (x) [y]",
        "-c",
    ]
    assert CodeMatcher.of([]).among(codes).to_list() == []
    assert CodeMatcher.of(["*"]).among(codes).len() == 6
