"""Compare in a real browser: one click to two datastores side by side."""

from browsing import page_tests

from app import text

pytestmark = page_tests


def wait_for(page, selector, words):
    page.wait_for_function(
        "([s, words]) => document.querySelector(s).textContent.includes(words)",
        arg=[selector, words],
        timeout=120_000,
    )


def test_one_click_shows_two_editions_side_by_side(open_page):
    page = open_page()
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("tab", name="Write side by side").click()
    page.wait_for_selector(".compare-columns")
    assert page.locator("#compare-view .compare-title").inner_text() == "Recorded example"
    assert "the 2015 edition" in page.locator("#compare-view .compare-headline").inner_text()
    page.get_by_role("button", name=text.SWAPS[3][0]).click()
    wait_for(page, "#compare-progress", "Wrote")
    assert page.locator("#compare-view .compare-title").count() == 0
    columns = [page.locator(".compare-column").nth(i).inner_text() for i in range(3)]
    assert columns[0].startswith("factbook-2015") and "36.7 years" in columns[0]
    assert columns[1].startswith("factbook-2025") and "41.9 years" in columns[1]
    assert columns[2].startswith("no retrieval") and "It read nothing" in columns[2]
    headline = page.locator("#compare-view .compare-headline")
    assert headline.inner_text().startswith("Same model, same prompt: with the 2015 edition it writes")
    assert headline.locator("strong").count() in (1, 3)
    page.wait_for_function("!document.querySelector('#compare-run').disabled")
    assert page.locator("#compare-stop").is_disabled()


def test_the_recorded_reading_shows_intervals_and_what_each_two_read_in_common(open_page):
    page = open_page()
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("tab", name="Same text, other reading").click()
    page.wait_for_selector(".same-bars")
    names = page.locator(".same-name").all_inner_texts()
    assert names[0] == "no retrieval" and names[-1] == "my edit" and len(names) == 10
    assert page.locator(".same-bar em").count() == 10
    assert page.locator(".same-row", has_text="factbook-2025, by words").locator(".same-better").count() == 1
    cell = page.get_by_role("button", name="neighbours of factbook-2025, by meaning (dense) are also read by")
    cell.filter(has_text="of").nth(1).focus()  # with the same datastore's BM25
    page.keyboard.press("Enter")
    assert page.locator(".same-overlaps [aria-pressed=true]").evaluate(
        "node => node === document.activeElement"
    )
    assert page.locator(".same-pair select").nth(1).evaluate("n => n.selectedOptions[0].text") == names[3]
    assert page.locator(".same-neighbours section").first.inner_text().startswith("In common · 2")
