"""The tab Corpus as plain functions: from a text to a datastore, looking into it, and looking after it."""

import re
import shutil
import time
import zipfile

import gradio as gr
import pytest
from app_calls import TEXT, fresh_services, message  # noqa: F401

from app import services, settings, tasks, text
from app.tabs import (
    corpus_card,
    corpus_index,
    corpus_make,
    corpus_map,
    corpus_search,
    corpus_text,
    corpus_upkeep,
)
from indexing import files, paths
from indexing.bundle import SUFFIX
from indexing.chunks import CHUNKS_FILE
from indexing.datastore import Datastore
from indexing.segment import EMBEDDINGS_FILE
from indexing.upkeep import verify

PAYLOAD = "<img src=x onerror=\"window.__pwned='map'\"> <a href='//evil.example'>${1}</a> \u202e{{x}}"


@pytest.fixture(autouse=True)
def quiet_tasks():
    """No task of a test outlives it."""
    yield
    for task in list(tasks._tasks.values()):
        tasks.cancel(task.id)
    for _ in range(200):
        if not any(task.active for task in tasks._tasks.values()):
            break
        time.sleep(0.02)
    tasks._tasks.clear()


def build(content, name, replace=False, **more):
    """The last of what `index` shows: (what is done, line)."""
    *_, (known, done, line, *_) = corpus_make.index(content, None, name, "suggested", replace, **more)
    assert not known
    return done, line


def found(query, name, retriever="dense"):
    *_, value = corpus_search.search(query, name, retriever)
    return value["rows"]


def last(events):
    *_, end = events
    return end


def upload(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    return [str(path)]


# ---------------------------------------------------------------------------------------------- make


def test_a_preview_cuts_as_indexing_cuts():
    build(TEXT * 20, "rivers")
    store = services.datastore("rivers")
    value = corpus_make.preview_texts(TEXT * 20, None)[0]
    shown = value["documents"][0]["chunks"]
    assert [chunk["text"] for chunk in shown] == [store.text(i) for i in range(len(store.chunks))]
    assert "".join(chunk["text"] for chunk in shown) == TEXT * 20
    assert value["chunks"] == len(store.chunks) and value["lengths"] == []


def test_a_long_corpus_is_previewed_in_part_and_says_so():
    value = corpus_make.preview_texts(TEXT * 5000, None)[0]
    assert sum(len(document["chunks"]) for document in value["documents"]) == settings.PREVIEW_CHUNKS
    assert "about" in value["summary"]
    assert value["rest"]


def test_a_name_is_suggested_and_used_where_none_is_given():
    _, box, suggested, *_ = corpus_make.preview_texts(TEXT, None)
    assert suggested == box.placeholder == "the-nile-flows"
    done, _ = build(TEXT, " ")
    assert done["name"] == "suggested"


def test_documents_are_counted_by_their_length():
    assert corpus_text.lengths([1, 60, 64 * 4, 64 * 4 * 7], 4.0) == [
        ["1 chunk", 2],
        ["2 chunks", 1],
        ["3–4 chunks", 0],
        ["5–8 chunks", 1],
    ]


def test_samples_come_from_the_bundled_book_and_nothing_else_does():
    value, _, suggestion, *_ = corpus_make.preview_texts("", None, ["Peru"])
    assert suggestion == "peru-introduction" and value["summary"].startswith("5 documents")
    assert {document["title"].split(" — ")[0] for document in value["documents"]} == {"Peru"}
    assert "among the samples" in message(corpus_make.preview_texts, "", None, ["../up"])


def test_the_advisor_says_what_it_would_build_and_refuses_what_cannot_be():
    *_, count = corpus_make.preview_texts(TEXT * 200, None)
    told = corpus_make.advise_again(count, "", 0, True)
    assert told["title"].startswith("Exact search") and f"{count:,}" in str(told["facts"])
    assert "few enough to compare all" in told["notes"][0]
    assert "at least 39" in message(corpus_make.advise_again, count, "IVF4096,SQ8", 0, True)
    assert "knows no index" in message(corpus_make.advise_again, count, PAYLOAD, 0, True)
    assert "ram_mb" in message(corpus_make.advise_again, count, "", -1, True)
    for forged in (0, -1, 1 << 80):
        assert corpus_make.advise_again(forged, "", 0, True) == {"notes": [text.NO_INDEX_YET]}
    assert [row[1] for row in corpus_index.other_sizes()] == ["SQ8", "IVF4096,SQ8", "IVF16384,SQ8"]


def test_an_indexed_corpus_can_be_searched_is_listed_and_shown():
    done, line = build(TEXT * 20, "rivers")
    assert line["tone"] == "good" and "rivers" in line["text"]
    tabs, choice, told = corpus_make.look_at(done)
    assert (tabs.selected, choice.value, told) == ("look", "rivers", line)
    assert "rivers" in [row[0] for row in corpus_card.list_rows()]
    assert "Sicily" in found("volcano Sicily", "rivers")[0]["text"]
    assert isinstance(corpus_make.look_at({"name": "nothing", "line": ""})[0], dict)  # gr.skip()


def test_a_corpus_of_one_chunk_works():
    _, line = build("One sentence only.", "tiny")
    assert "1 chunk" in line["text"]
    assert len(found("sentence", "tiny")) == 1
    assert corpus_map.draw("tiny", "sentence", "source", "pca")[1]["badge"] == text.MAP_TOO_SMALL


def test_cancelling_leaves_nothing():
    steps = corpus_make.index(TEXT * 4000, None, "rivers", "", False)
    known, *_ = next(steps)
    corpus_make.cancel(known)
    known, _, line, start, cancel = last(steps)
    assert not known and "nothing was changed" in line["text"]
    assert start["interactive"] and not cancel.interactive
    left = [path.name for path in paths.datastores_dir().glob("*")]
    assert left in ([], [".rivers.lock"])


def test_building_goes_on_without_the_page_and_is_found_again_by_who_has_its_id(monkeypatch):
    steps = corpus_make.index(TEXT * 400, None, "rivers", "", False)
    known, *_ = next(steps)
    steps.close()  # the page is loaded anew
    for shown in corpus_make.reattach(known):
        assert shown[-1].selected == 4
    assert "Built 'rivers'" in shown[2]["text"] and shown[1]["name"] == "rivers"
    assert not last(corpus_make.reattach({"task": "guessed", "name": "rivers"}))[0]
    monkeypatch.setattr(tasks, "_tasks", type(tasks._tasks)())  # the server is started anew
    (_, _, line, *_) = last(corpus_make.reattach(known))
    assert "started anew" in line["text"] and "1 documents" in line["text"] and "version 1" in line["text"]
    (_, _, line, *_) = last(corpus_make.reattach({**known, "name": "others"}))
    assert "not finished" in line["text"] and "Nothing was written" in line["text"]
    (paths.datastores_dir() / ".others.vectors.npy.part").touch()
    assert "goes on from there" in corpus_make.lost("others")
    for forged in ({"task": 1, "name": "x"}, {"task": "x", "name": 1}, [], "x"):
        assert not last(corpus_make.reattach(forged))[0]
    assert "cannot be used" in message(corpus_make.reattach, {"task": "x", "name": "../../etc"})


def test_replacing_a_datastore_reaches_the_search_at_once():
    build("Bees dance on the comb.", "mine")
    assert "Bees" in found("bees", "mine")[0]["text"]
    assert "exists already" in message(corpus_make.index, "Honey.", None, "mine", "", False)
    build("Glaciers move slowly.", "mine", True)
    assert "Glaciers" in found("bees", "mine")[0]["text"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("empty.txt", b"", "empty.txt is empty"),
        ("photo.txt", b"\x89PNG\0\0\1\2", "looks binary"),
        ("latin.txt", "Zürich".encode("latin-1"), "byte 1"),
        ("rows.jsonl", b'{"text": "a"}\n' * 6 + b'{"text": \n', "Line 7 of rows.jsonl"),
        ("notes.pdf", b"text", "Cannot read notes.pdf: it is damaged, or no pdf file"),
        ("notes.exe", b"text", "Cannot read notes.exe: expected a .txt, .md,"),
    ],
)
def test_a_bad_file_is_named_with_its_remedy(tmp_path, name, content, expected):
    value, *_, told, _, count = corpus_make.preview_texts("", upload(tmp_path, name, content))
    assert value is None and expected in told["text"] and told["tone"] == "bad"
    assert corpus_make.expect_text("", ["there"], None, count, told) == (gr.skip(), gr.skip())
    assert expected in message(corpus_make.index, "", upload(tmp_path, name, content), "mine", "", False)


def test_a_bad_file_does_not_keep_the_others_out(tmp_path):
    given = upload(tmp_path, "latin.txt", "Zürich".encode("latin-1")) + upload(
        tmp_path, "a.md", b"Herons wade."
    )
    value, _, suggested, told, _, count = corpus_make.preview_texts("", given)
    assert value["summary"].startswith("1 document") and suggested == "a"
    assert "Left out: latin.txt is not UTF-8" in told["text"] and told["tone"] == "bad"
    assert corpus_make.expect_text("", given, None, count, told)[0].selected == 2
    line = last(corpus_make.index("", given, "herons", "", False))[2]
    assert "1 document" in line["text"] and "1 file was left out." in line["text"]


def test_the_next_step_waits_until_the_text_is_read():
    stay, told = corpus_make.expect_text(TEXT, None, None, 0, "")
    assert stay == gr.skip() and "still being read" in told["text"]
    stay, told = corpus_make.expect_text(TEXT, None, None, 0, told)  # pressed again, too early
    assert stay == gr.skip() and "still being read" in told["text"]


def test_tables_and_archives_are_indexed_and_what_was_left_out_is_told(tmp_path):
    table = "title,text\n" + "Nile,The Nile flows north.\n" * 150 + "one field only\n"
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
        archive.writestr("rivers.csv", table)
        archive.writestr("<img src=x>.exe", "not text")
    uploaded = [str(tmp_path / "mine.zip")]
    value, _, suggestion, *_ = corpus_make.preview_texts("", uploaded)
    assert value["summary"].startswith("150 documents") and suggestion == "nile"
    assert value["lengths"] == [["1 chunk", 150]]
    notes = "\n".join(value["notes"])
    assert "1 row was left out:\n– Line 152 of mine.zip/rivers.csv has 1 fields, expected 2" in notes
    assert "1 file was left out:\n– Cannot read mine.zip/<img src=x>.exe: expected a .txt" in notes
    assert "149 documents repeat earlier ones:" in notes
    line = last(corpus_make.index("", uploaded, "rivers", "", False))[2]
    assert "150 documents" in line["text"] and "1 row was left out." in line["text"]
    assert str(tmp_path) not in notes + line["text"]


def test_the_column_with_the_text_can_be_named(tmp_path):
    uploaded = upload(tmp_path, "birds.csv", b"id,body\n1,Herons wade.\n2,Swifts hardly land.\n")
    assert corpus_text.ask_column(uploaded).visible
    assert not corpus_text.ask_column(upload(tmp_path, "birds.txt", b"Herons wade.")).visible
    assert "birds.csv has no column" in corpus_make.preview_texts("", uploaded)[3]["text"]
    value, *_ = corpus_make.preview_texts("", uploaded, column=" body ")
    assert value["summary"].startswith("2 documents")
    last(corpus_make.index("", uploaded, "birds", "", False, column="body"))
    assert "Swifts" in found("swifts", "birds", "bm25")[0]["text"]
    more = upload(tmp_path, "more.csv", b"id;note\n3;Owls are quiet.\n")
    assert "no column" in message(corpus_upkeep.add, "birds", "", more, None)
    last(corpus_upkeep.add("birds", "", more, None, "note"))
    assert "Owls" in found("owls", "birds", "bm25")[0]["text"]


@pytest.mark.parametrize(("name", "expected"), [("../up", "cannot be used"), ("A B", "cannot")])
def test_a_bad_name_is_refused(name, expected):
    assert expected in message(corpus_make.index, TEXT, None, name, "", False)


def test_nothing_to_index_says_so():
    assert "no text yet" in message(corpus_make.index, "", None, "mine", "", False)
    assert "no text yet" in corpus_make.expect_text(" ", None, None, 0, "")[1]["text"]


def test_a_busy_server_says_where_in_line_one_is_and_when_it_is_full(monkeypatch):
    def endless():
        while True:
            yield {"text": "…", "tone": "busy"}
            time.sleep(0.01)

    first = tasks.start("build", "a", endless)
    second = tasks.start("build", "b", endless)
    assert "next in line" in next(now for now in tasks.watch(second) if now.line).line["text"]
    monkeypatch.setattr(settings, "TASKS_WAITING", 1)
    assert "server is busy: 2" in message(corpus_make.index, TEXT, None, "mine", "", False)
    tasks.cancel(second.id)
    assert last(tasks.watch(second)).state == tasks.CANCELLED
    assert "still going on" in message(corpus_upkeep.verify, "factbook", {"task": first.id})


# ---------------------------------------------------------------------------------------------- look


@pytest.mark.parametrize("retriever", list(text.LOOKED_INTO))
def test_every_retriever_finds_chunks_with_their_sources_in_context(retriever):
    build(TEXT * 40, "rivers")
    store = Datastore.open("rivers")
    rows = found("volcano on the coast", "rivers", retriever)
    assert len(rows) == settings.SEARCH_RESULTS
    for row in rows:
        around = row["before"] + row["text"] + row["continuation"]
        assert around in TEXT * 40 and row["text"] == store.text(row["chunk"])
        assert bool(row["before"]) == (row["chunk"] > 0) and row["title"].startswith("The Nile")
        assert row["measured"]


def test_a_search_that_cannot_be_made_or_finds_nothing_near_says_so():
    build(TEXT * 4, "rivers")
    assert "Make one first" in message(corpus_search.search, "x", None)
    assert "Type a few words" in message(corpus_search.search, " ", "rivers")
    assert "no retriever" in message(corpus_search.search, "x", "rivers", "http://localhost")
    assert "100,000 characters" in message(corpus_search.search, "x" * 100_001, "rivers")
    assert "no chunk shares a word" in last(corpus_search.search("zebra", "rivers", "bm25"))["note"]
    assert "Nothing here is near" in last(corpus_search.search("zebra quagga", "rivers"))["note"]


def test_the_map_has_a_point_a_chunk_true_edges_and_no_html_of_the_text():
    build(f"{PAYLOAD} {TEXT}" * 30, "rivers")
    drawn, legend = corpus_map.draw("rivers", f"{TEXT * 6} {PAYLOAD}", "document", "pca")
    store = services.datastore("rivers")
    points, lines, nearest, _, stars = drawn.data
    assert len(points.x) == len(store.chunks)
    assert len(stars.x) > 1 and len(lines.x) == 3 * len(nearest.x)  # from, to, a gap
    pieces = [said.split("<br>", 1)[1] for said in stars.hovertext]
    assert pieces[0].startswith("The Nile")
    first = store.nearest(
        [next(iter(corpus_map.maps.ask(store, corpus_map._map(store, "pca"), TEXT, 1).texts))], 1
    )
    assert first[0][0, 0] >= 0
    said = [*points.hovertext, *nearest.hovertext, *stars.hovertext]
    assert any("onerror" in words for words in said)
    tags = {tag for words in said for tag in re.findall(r"<[^>]*>", words)}
    assert tags == {"<br>", "<b>", "</b>"} and "\u202e" not in "".join(said)
    assert drawn.layout.paper_bgcolor == drawn.layout.plot_bgcolor == "rgba(0,0,0,0)"
    assert re.search(r"keeps \d+% of true neighbours", legend["badge"])
    assert legend["items"][0]["count"] == len(store.chunks)
    for settings_ in (("x", "pca"), ("source", "x"), ("source", None)):
        assert "Expected" in message(corpus_map.draw, "rivers", "", *settings_)


def test_colours_go_to_the_largest_groups_and_the_others_share_one(tmp_path):
    rows = "".join(f'{{"text": "Words {i}.", "title": "T{i % 30}"}}\n' for i in range(90))
    last(corpus_make.index("", upload(tmp_path, "rows.jsonl", rows.encode()), "rows", "", False))
    store = services.snapshot("rows")
    groups, items = corpus_map.grouped(store, corpus_map._map(store, "pca"), "document")
    assert len(items) == 8 and items[-1]["name"] == "23 other documents" and items[-1]["count"] == 69
    assert [groups.count(i) for i in range(8)] == [item["count"] for item in items]
    assert [
        item["name"] for item in corpus_map.grouped(store, corpus_map._map(store, "pca"), "source")[1]
    ] == ["rows.jsonl"]
    # All are of one source, and have no sections.
    assert last(corpus_map.show("rows", "pca"))[0] == "document"
    assert corpus_map.group_of("Factbook 2025, africa/ag") == "Factbook 2025, africa"
    assert corpus_map.section_of("Peru — Geography") == "Geography" != corpus_map.section_of("Peru—x")
    assert last(corpus_map.show(paths.DEMO_DATASTORE, "pca"))[0] == "section"


# -------------------------------------------------------------------------------------------- change


def show(name):
    return corpus_card.show(name)


def facts_of(name):
    return dict(show(name)[0]["facts"])


def test_documents_are_added_listed_deleted_and_compacted_away(tmp_path):
    rows = "".join(f'{{"text": "Words {i}.", "title": "Title {i} {PAYLOAD[:9]}"}}\n' for i in range(45))
    last(corpus_make.index("", upload(tmp_path, "rows.jsonl", rows.encode()), "mine", "", False))
    facts, _, _, listed, back, on, first, *_ = show("mine")
    assert len(listed.choices) == 20 and first == 0 and on.interactive and not back.interactive
    listed, back, on, first = corpus_card.turn(20)("mine", "", 20)
    assert (first, back.interactive, on.interactive, len(listed.choices)) == (40, True, False, 5)
    listed, *_ = corpus_card.turn(None)("mine", "title 44", 20)
    assert [value for _, value in listed.choices] == ["rows.jsonl:44", "rows.jsonl:45"]
    *_, line, _, _, _, _, _ = last(corpus_upkeep.add("mine", TEXT, None, None))
    assert "Added to 'mine': 1 document" in line["text"]
    assert "no text yet" in message(corpus_upkeep.add, "mine", " ", None, None)
    question = corpus_upkeep.ask_to_delete("mine", ["rows.jsonl:1"])[1]
    assert "Delete this document from mine?" in question
    assert "No document is ticked" in message(corpus_upkeep.ask_to_delete, "mine", [])
    assert "no document 'x'" in message(corpus_upkeep.delete, "mine", ["x"], None).replace("&#x27;", "'")
    corpus_upkeep.delete("mine", ["rows.jsonl:1", "rows.jsonl:2"], None)
    assert facts_of("mine")["Documents"] == "44 and 2 deleted ones until it is compacted"
    assert "2 chunks removed" in last(corpus_upkeep.compact("mine", None))[1]["text"]
    assert facts_of("mine")["Documents"] == "44" and "1 segment" in facts_of("mine")["Version"]


def test_a_datastore_is_copied_renamed_exported_imported_and_removed(tmp_path):
    build(TEXT * 9, "mine")
    assert last(corpus_upkeep.copy("mine", "twin", None))[4].value == "twin"
    assert facts_of("twin")["Fingerprint"] == facts_of("mine")["Fingerprint"]
    assert "already" in message(corpus_upkeep.copy, "mine", "twin", None)
    assert corpus_upkeep.rename("twin", "other", None)[0].value == "other"
    assert "cannot be used" in message(corpus_upkeep.rename, "other", "../x", None)
    button = last(corpus_upkeep.pack("mine", None))[3]
    assert button.visible and button.value["path"].endswith(f"mine{SUFFIX}")
    bundle = tmp_path / f"mine{SUFFIX}"
    shutil.copyfile(button.value["path"], bundle)
    _, done, line, _ = last(corpus_make.import_file(str(bundle), "again"))
    assert done["name"] == "again" and "Imported" in line["text"]
    assert facts_of("again")["Fingerprint"] == facts_of("mine")["Fingerprint"]
    assert "exists already" in message(corpus_make.import_file, str(bundle), "")
    bundle.write_bytes(bundle.read_bytes()[:-100])
    refused = message(corpus_make.import_file, str(bundle), "half")
    assert "not a whole bundle" in refused and str(tmp_path) not in refused
    assert "type exactly its name" in message(corpus_upkeep.remove, "again", "agai", None)
    choice, line, _ = corpus_upkeep.remove("again", "again", None)
    assert choice.value == paths.DEMO_DATASTORE and "Removed again" in line["text"]
    assert "again" not in [row[0] for row in corpus_card.list_rows()]


def test_damage_is_told_and_repaired_where_it_can_be():
    build(TEXT * 40, "mine")
    assert "is as it was written" in last(corpus_upkeep.verify("mine", None))[1]["text"]
    assert not show("mine")[1].visible
    segment = next((paths.datastores_dir() / "mine" / "segments").iterdir())

    def damage(name):
        file = segment / name
        data = bytearray(file.read_bytes())
        data[-3] ^= 0xFF
        file.write_bytes(data)

    damage(EMBEDDINGS_FILE)
    services._datastores.clear()
    assert "is damaged" in message(corpus_upkeep.verify, "mine", None)
    facts, repair, *_ = show("mine")
    assert repair.visible and "is damaged" in facts["notes"][0]
    assert "Embedded" in last(corpus_upkeep.mend("mine", None))[1]["text"]
    assert not show("mine")[1].visible and list(verify("mine"))[-1].stage == "done"
    segment = next((paths.datastores_dir() / "mine" / "segments").iterdir())
    damage(CHUNKS_FILE)
    services._datastores.clear()
    assert "is damaged" in message(corpus_upkeep.mend, "mine", None)


def test_what_ships_with_the_program_is_not_changed_whatever_is_asked():
    name = paths.DEMO_DATASTORE
    for call, *more in (
        (corpus_upkeep.add, TEXT, None, None),
        (corpus_upkeep.compact, None),
        (corpus_upkeep.mend, None),
        (corpus_upkeep.delete, ["factbook-2025:africa/ag/Introduction"], None),
        (corpus_upkeep.rename, "mine", None),
        (corpus_upkeep.remove, name, None),
    ):
        assert "ships with the program" in message(call, name, *more)
    facts, repair, _, _, _, _, _, *buttons, new_name, _ = show(name)
    assert text.BUNDLED in facts["notes"] and not repair.visible and new_name == f"my-{name}"
    assert len(buttons) == 5 and not any(button.interactive for button in buttons)


def test_two_writers_are_told_of_each_other():
    build(TEXT * 9, "mine")
    with files.lock(paths.datastores_dir() / "mine"):
        assert "being changed at this moment" in message(corpus_upkeep.compact, "mine", None)
        assert "being changed at this moment" in message(corpus_upkeep.remove, "mine", "mine", None)


def test_a_datastore_that_is_gone_or_none_at_all_is_no_dead_end():
    (told,) = show("gone")[0]["notes"]
    assert "no datastore 'gone': expected RETRO_HOME/datastores" in told and str(paths.home()) not in told
    assert show(None)[0]["notes"] == [text.NO_DATASTORE]
    assert len(show("gone")) == len(show(None)) == len(show("factbook"))
    for call in (corpus_upkeep.verify, corpus_upkeep.compact, corpus_upkeep.pack):
        assert message(call, None, None) == text.NO_DATASTORE.replace("'", "&#x27;")
        assert "cannot be used" in message(call, "../../etc", None)


def test_a_failure_of_ours_is_no_traceback_on_the_page(caplog):
    def work():
        yield {"text": "…"}
        raise ValueError("secret path /root/x")

    ended = last(tasks.watch(tasks.start("build", "mine", work)))
    assert ended.state == tasks.FAILED and "secret" not in ended.line["text"]
    assert "secret path" in caplog.text
