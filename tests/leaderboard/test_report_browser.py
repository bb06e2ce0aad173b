"""The report in Chromium: what a reader does with it, at both widths, and what attackers cannot do."""

from contextlib import contextmanager

import pytest
from report_runs import ATTACKS, DIFFER, add_task, attack, browser_path, make_runs, write_views

from sinkbench.leaderboard.report import data, page

WIDTHS = (400, 1600)


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    path = browser_path()
    if path is None:
        pytest.skip("no Chromium: set CHROMIUM, or put chromium on the PATH")
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Two models and two tasks, with attention views of one sample."""
    folder = tmp_path_factory.mktemp("report")
    runs = make_runs(folder, ("tiny", "small"))
    add_task(runs, "other")
    write_views(folder / "views", "tiny", "fake", "fake/3")
    return written(runs, folder / "report.html", attention=(folder / "views",))


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attacked")
    runs = make_runs(folder)
    attack(runs)
    return written(runs, folder / "report.html", title=ATTACKS[1])


def written(runs, path, **settings):
    page.write(page.render(data.collect(data.Settings(runs, **settings))), path)
    return path.as_uri()


@contextmanager
def opened(browser, address, width=1600, scheme="light"):
    """A page; what it complains about, and what it wants from elsewhere, fails the test."""
    view = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    view.set_default_timeout(4000)
    complaints = []
    view.on("dialog", lambda dialog: (complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
    view.on("pageerror", lambda error: complaints.append(f"exception {error}"))
    view.on("console", lambda message: complaints.append(f"{message.type} {message.text}"))
    view.on("request", lambda request: request.url.startswith(("file:", "data:")) or complaints.append(request.url))
    view.add_init_script(
        "document.addEventListener('securitypolicyviolation', (e) => console.error('policy', e.violatedDirective))"
    )
    view.goto(address)
    yield view
    view.close()
    assert complaints == []


def texts(view, selector):
    return [text.strip() for text in view.locator(selector).all_inner_texts()]


def methods(view):
    return [text.split()[0] for text in texts(view, "[data-task=fake] > .scroll tbody th")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_never_scrolls_sideways(browser, report, width, scheme):
    with opened(browser, f"{report}#task=fake&model=tiny&id=fake/3", width, scheme) as view:
        for details in view.locator("summary").all():
            details.click()
        assert view.evaluate("document.documentElement.scrollWidth") <= width
        # What is broader scrolls within its own box.
        box = view.locator("[data-task=fake] > .scroll").first
        assert box.evaluate("e => e.scrollWidth > e.clientWidth") == (width == 400)
        # The first column stays in sight.
        box.evaluate("e => { e.scrollLeft = 200 }")
        left = box.locator("tbody th").first.evaluate("e => e.getBoundingClientRect().left")
        assert left == pytest.approx(box.evaluate("e => e.getBoundingClientRect().left"), abs=1)


def test_a_column_is_sorted_by_its_title(browser, report):
    with opened(browser, report) as view:
        assert methods(view) == ["greedy", "pai", "var"] * 2
        value = view.get_by_role("button", name="random/accuracy ↑").first
        value.click()
        assert methods(view)[:2] == ["var", "var"]
        assert view.locator("[data-task=fake] th[aria-sort=descending]").inner_text().startswith("random/accuracy")
        value.click()
        assert methods(view)[-2:] == ["var", "var"]
        # By keyboard; rows without a difference come last both ways.
        view.locator("[data-task=fake] th[data-key=delta] button").first.focus()
        for last in (["greedy"] * 2, ["greedy"] * 2):
            view.keyboard.press("Enter")
            assert methods(view)[-2:] == last


def test_task_and_model_filter_board_and_plots(browser, report):
    with opened(browser, report) as view:
        assert view.locator("#score-panels figure").count() == 4
        view.get_by_label("Model").first.select_option("small")
        view.get_by_label("Task").first.select_option("other")
        assert view.locator(".block[data-task]:visible").count() == 1
        assert set(texts(view, ".block[data-task]:visible > .scroll tr:visible td.name")) == {"small"}
        assert texts(view, "#score-panels h3") == ["other · small random/accuracy ↑"]
        assert texts(view, "#cost-panels h3") == ["other · small random/accuracy ↑"]


def test_plots_show_runs_the_front_and_their_numbers(browser, report):
    with opened(browser, report) as view:
        first = view.locator("#cost-panels figure").first
        assert first.locator("g.run").count() == 3
        assert first.locator("g.run[data-method=var] circle.front").count() == 1
        assert first.locator(".mark.front").count() == 1
        first.locator("g.run[data-method=var]").focus()
        tip = view.locator("#tip")
        assert tip.is_visible()
        assert "random/accuracy: 0.750" in tip.inner_text()
        assert "on the front" in tip.inner_text()
        # Bars are as long as their scores: var's three times as long as greedy's.
        bars = view.locator("#score-panels figure").first
        width = {m: float(bars.locator(f"[data-method={m}] .bar").get_attribute("width")) for m in ("greedy", "var")}
        assert width["var"] == pytest.approx(3 * width["greedy"])


def test_samples_are_filtered_searched_and_stepped_through(browser, report):
    with opened(browser, report) as view:
        view.get_by_label("Model").last.select_option(label="tiny")
        show = view.get_by_label("Show")
        for wanted, ids in (
            ("methods disagree (3)", DIFFER),
            ("greedy wrong, var right (2)", ["fake/0", "fake/3"]),
            ("greedy right, pai wrong (1)", ["fake/1"]),
            ("all methods wrong (1)", ["fake/6"]),
        ):
            show.select_option(label=wanted)
            assert texts(view, "#sample-list .under > span:first-child") == ids
        assert view.locator("#sample-count").inner_text().startswith("1 match; all 12 samples are in this page")
        show.select_option("all")
        view.get_by_label("Search").fill("IMAGE 11")
        assert texts(view, "#sample-list .under > span:first-child") == ["fake/11"]
        view.get_by_label("Search").fill("no such words")
        assert "No sample matches" in view.locator("#sample-view").inner_text()
        view.get_by_label("Search").fill("")
        view.get_by_role("button", name="Next →").click()
        assert view.locator(".question").inner_text() == "Is there a dog in image 1?"
        # The button keeps the focus, and the arrow keys step as well.
        view.keyboard.press("Enter")
        view.keyboard.press("ArrowRight")
        assert view.locator(".question").inner_text() == "Is there a dog in image 3?"
        assert texts(view, ".answer header span") == ["✗ wrong", "✗ wrong", "✓ right"]
        assert "Reference: no" in view.locator("#sample-view").inner_text()
        view.keyboard.press("ArrowLeft")
        assert view.locator(".question").inner_text() == "Is there a dog in image 2?"
        assert view.evaluate("decodeURIComponent(location.hash)") == "#task=fake&model=tiny&id=fake/2"


def test_the_list_is_one_stop_of_the_tab_key(browser, report):
    with opened(browser, report) as view:
        view.locator("#sample-list button").first.focus()
        view.keyboard.press("ArrowDown")
        assert view.evaluate("document.activeElement.getAttribute('aria-current')") == "true"
        assert view.locator("#sample-list [tabindex='0']").count() == 1
        assert view.evaluate("document.activeElement.innerText").startswith("Is there a dog in image 1?")


def test_links_lead_to_a_sample_and_its_attention(browser, report):
    with opened(browser, f"{report}#task=fake&model=tiny&id=fake%2F3&show=gain%3Avar") as view:
        assert view.get_by_label("Show").input_value() == "gain:var"
        assert view.locator(".place").inner_text() == "2 of 2 · fake/3"
        assert view.locator("#samples").evaluate("e => Math.abs(e.getBoundingClientRect().top)") < 40
        assert texts(view, ".look figcaption b") == ["greedy", "var"]
        assert view.locator(".look img").evaluate_all("all => all.every((i) => i.complete && i.naturalWidth === 60)")
        assert texts(view, ".look:last-child tbody tr:first-child > *") == ["1.0", "0.200", "0.600", "+0.400"]
        view.evaluate("location.hash = '#task=other&model=small&id=fake/7'")
        view.wait_for_function("document.querySelector('.question').innerText.includes('image 7')")
        assert view.get_by_label("Task").last.input_value() == "other"
        assert "sinkbench inspect sample -m small -t other --id fake/7" in view.locator(".attention").inner_text()


@pytest.mark.parametrize(("scheme", "first"), [("light", "dark"), ("dark", "light")])
def test_colours_follow_the_system_until_they_are_chosen(browser, report, scheme, first):
    with opened(browser, report, scheme=scheme) as view:
        ground = "getComputedStyle(document.body).backgroundColor"
        own = view.evaluate(ground)
        toggle = view.locator("#theme")
        seen = {}
        for _ in range(3):
            toggle.click()
            seen[toggle.inner_text()] = view.evaluate(ground)
        assert seen["Auto"] == own == seen[scheme.title()]
        assert seen[first.title()] != own


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser, report, scheme):
    """WCAG AA: a contrast of 4.5 at least."""
    with opened(browser, report, scheme=scheme) as view:
        found = view.evaluate(
            """() => {
              const light = (colour) => {
                const [r, g, b] = colour.match(/[0-9.]+/g).slice(0, 3).map(Number)
                  .map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
              };
              const ground = light(getComputedStyle(document.body).backgroundColor);
              return ["h1", ".lead", ".fine", ".interval", ".right", ".wrong", ".board td", "nav a", "summary"]
                .map((selector) => {
                  const own = light(getComputedStyle(document.querySelector(selector)).color);
                  return [selector, (Math.max(own, ground) + 0.05) / (Math.min(own, ground) + 0.05)];
                });
            }"""
        )
    assert all(contrast >= 4.5 for _, contrast in found), found


def test_every_control_has_a_name(browser, report):
    with opened(browser, report) as view:
        nameless = view.evaluate(
            """[...document.querySelectorAll('select, input, button, img, svg')].filter((e) => !(
              e.getAttribute('aria-label') || e.alt || (e.labels && e.labels.length) || e.textContent.trim()
            )).map((e) => e.outerHTML)"""
        )
    assert nameless == []


@pytest.mark.parametrize("width", WIDTHS)
def test_attacks_do_nothing(browser, attacked, width):
    with opened(browser, attacked, width) as view:
        elements = view.evaluate("document.querySelectorAll('*').length")
        for step in range(12):
            assert view.locator(".question").inner_text().strip() == ATTACKS[step % len(ATTACKS)].strip()
            view.locator("#next").click() if step < 11 else None
        assert ATTACKS[1] in view.locator(".answer header b").nth(1).inner_text()
        view.locator("g.run").nth(1).focus()
        view.get_by_label("Search").fill(ATTACKS[0])
        assert view.locator("#sample-list li").count() == 2
        # Nothing of theirs: pictures are data, scripts are the page's three, no handlers, no links but to the page.
        assert view.evaluate("[...document.images].every((i) => i.src.startsWith('data:image/webp'))")
        assert view.evaluate("document.scripts.length") == 3
        assert view.evaluate(
            """[...document.querySelectorAll('*')].every((e) => [...e.attributes].every((a) => !a.name.startsWith('on')
            && !(a.name === 'href' && !a.value.startsWith('#'))))"""
        )
        assert view.evaluate("document.querySelectorAll('*').length") < elements * 2
        assert view.evaluate("document.documentElement.scrollWidth") <= width


def test_an_attack_that_got_through_would_be_stopped(browser, attacked):
    """The policy is alive: an inline handler, put there on purpose, does not run."""
    view = browser.new_page()
    view.goto(attacked)
    view.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hit = 1\">')")
    view.wait_for_timeout(200)
    assert view.evaluate("window.hit") is None
    view.close()
