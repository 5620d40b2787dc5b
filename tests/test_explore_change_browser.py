"""Changing what was read, in a real browser: at once where it was recorded, else through the model."""

from browsing import frames, page_tests

from app import services
from indexing import paths

pytestmark = page_tests


def said(page, words):
    page.wait_for_function(
        "words => document.querySelector('.lens-notice').textContent.includes(words)",
        arg=words,
        timeout=120_000,
    )


def shown(page, chunks):
    page.wait_for_function(
        "n => document.querySelectorAll('.lens-card-tab').length === n"
        " && !document.querySelector('[data-action=edit]').disabled",
        arg=chunks,
        timeout=120_000,
    )


def act(page, name, j=0):
    page.locator(f".lens-neighbour [data-action={name}]").nth(j).click()


def back(page):
    page.locator("[data-action=back]").click()
    page.wait_for_function("document.querySelector('.lens-notice').hidden")


def test_a_newcomer_mutes_edits_swaps_branches_forks_and_comes_back(open_page):
    page = open_page()
    shown(page, 1)
    text, strip = page.locator(".lens-text"), page.locator(".lens-strip")
    before = text.text_content(), strip.inner_text()
    took = page.evaluate(
        "async () => { const begun = performance.now();"
        " document.querySelector('[data-action=mute]').click();"
        " await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));"
        " return performance.now() - begun; }"
    )
    chunk = services.read_trace(next((paths.ASSETS / "traces").glob("1-*"))).to_json()["chunks"][0]
    gain, own = chunk["gain"], chunk["neighbours"][0]["influence"]["own"]
    said(page, f"Without #1 this chunk loses {own:.2f} nats per token")
    assert took < 500  # some 50 ms where nothing else runs
    assert (
        f"+{gain:.2f} → {gain - own:+.2f}".replace("-", "−") in strip.inner_text()
        and "muted" in page.locator(".lens-neighbour").first.inner_text()
    )
    page.locator(".lens-text").focus()
    page.keyboard.press("1")
    page.keyboard.press("m")  # the key takes back what the button did
    page.wait_for_function("document.querySelector('.lens-notice').hidden")
    assert (text.text_content(), strip.inner_text()) == before

    act(page, "edit")
    words = page.locator(".lens-form textarea")
    assert "35,336,133" in words.input_value()
    words.fill(words.input_value().replace("35,336,133", "11,111,111"))
    words.press("Control+Enter")
    said(page, "#1 of chunk 1 edited: Chunk 1 → 2 loses")
    assert "11,111,111" in page.locator(".lens-neighbour").first.inner_text()
    page.get_by_role("radio", name="before").click()
    assert "35,336,133" in page.locator(".lens-neighbour").first.inner_text()
    page.get_by_role("radio", name="after").click()
    page.locator(".lens-text").press("Escape")  # no neighbour is chosen any more, whose looks would be shown
    page.get_by_role("radio", name="the change").click()
    frames(page)
    assert page.locator(".lens-reads[style*='37, 99, 235']").count() > 3, "less likely is blue"
    back(page)
    assert (text.text_content(), strip.inner_text()) == before

    page.locator(".lens-reads").nth(4).click()  # pinned: its alternatives can be taken
    taken = page.locator(".lens-fork").first
    taken.wait_for()
    taken.click()
    said(page, "A fork:")
    assert text.text_content() != before[0] and page.locator("#save").is_enabled()
    back(page)
    page.locator("[data-action=branch]").click()
    page.get_by_label("Temperature").last.fill("1.5")
    page.locator(".lens-go").click()
    said(page, "A branch:")
    back(page)
    assert text.text_content() == before[0]

    act(page, "source")
    page.wait_for_selector(".lens-source mark")
    assert "the document begins here" in page.locator(".lens-source").inner_text()
    page.keyboard.press("Escape")
    assert page.locator(".lens-source").count() == 0

    page.locator("#recorded-3-ghana").click()
    shown(page, 3)
    act(page, "swap")
    page.locator(".lens-go").click()
    said(page, "#1 of chunk 1 swapped with #1 of chunk 2: Chunk 1 → 2 loses")
    assert page.locator(".lens-changed", has_text="moved").count() == 1
    page.locator(".lens-enlarge").click()
    assert page.locator("dialog.lens-full[open] .lens-base").is_visible()
    page.locator("dialog .lens-pick").nth(2).click()
    page.locator("dialog .lens-pick").nth(3).click(modifiers=["Shift"])
    assert page.locator(".lens-pick[aria-pressed=true]").count() == 2
    page.keyboard.press("Escape")
    page.wait_for_function("!document.querySelector('dialog.lens-full').open")
    assert page.locator(".lens-columns ~ .lens-map .lens-base").is_visible()

    page.locator("[data-action=place]").first.press("Enter")
    page.locator("#map-legend").get_by_text("★ is neighbour #1").wait_for(timeout=120_000)
    page.locator("#map-legend").get_by_text("◆").wait_for(timeout=120_000)
    page.locator("#results").get_by_text("#1").first.wait_for()
    assert page.evaluate("document.activeElement.closest('#map-colour') !== null"), "the keyboard came along"
