"""report.py in a real browser: it is looked at, sorted, filtered, clicked and listened to, from the disk alone."""
import json
import shutil
import time

import pytest

import report
from tests.worlds.reported import EVIL, built, needs_ffmpeg

SCREEN = (1280, 1000)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Address of the page of a workspace with hostile names, runs and sound."""
    needs_ffmpeg()
    workdir, audio = built(tmp_path_factory.mktemp("page"))
    report.main(["--workdir", str(workdir), "--audio", str(audio), "--users", "3"])
    return (workdir / "report" / "index.html").as_uri()


@pytest.fixture(scope="module")
def driver():
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium, which drives the browser")
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and chromedriver):
        pytest.skip("needs the Debian packages chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--mute-audio",
                 "--no-first-run", "--disable-background-networking", "--disable-component-update"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    yield made
    made.quit()


@pytest.fixture
def opened(driver, page):
    """The driver with the page freshly opened; afterwards: no error in the console, no request but to the disk."""
    screen(driver, *SCREEN)
    driver.get_log("browser")
    driver.get_log("performance")
    driver.get(page)
    until(lambda: driver.execute_script("return document.querySelectorAll('#map-plot .points path').length > 20"))
    yield driver
    assert driver.execute_script("return window.broken") is None
    assert [line for line in driver.get_log("browser") if line["level"] not in ("INFO", "DEBUG")] == []
    asked = [m["params"]["request"]["url"] for line in driver.get_log("performance")
             if (m := json.loads(line["message"])["message"])["method"] == "Network.requestWillBeSent"]
    assert asked and all(url.startswith(("file:", "data:", "blob:")) for url in asked), asked


def screen(driver, width, height, dark=False):
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": height,
                                                                  "deviceScaleFactor": 1, "mobile": False})
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [
        {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]})


def until(true, seconds=30):
    """Wait for a condition; a slow machine may take its time, a wrong page fails."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "this never came true"
        time.sleep(.1)


def click(driver, css):
    place = driver.find_element("css selector", css)
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", place)
    place.click()


def choose(driver, name, value):
    from selenium.webdriver.support.ui import Select
    Select(driver.find_element("id", name)).select_by_value(value)


def rows(driver, block="with content"):
    """[(method, representation, value)] of a block of the leaderboard, as shown."""
    return driver.execute_script("""
        const bodies = [...document.querySelectorAll('#board tbody')];
        const body = bodies.find(b => b.rows[0].textContent === arguments[0]);
        return body ? [...body.rows].slice(1).map(r => [...r.cells].slice(0, 3).map(c => c.textContent)) : [];
        """, block)


def test_the_leaderboard_is_sorted_and_filtered(opened):
    first = rows(opened)
    assert {"KNN", "Shallow Net"} == {row[0] for row in first}
    assert sorts(opened) == set()        # rows are in the table's order, by no column
    click(opened, '#board th[data-column="representation"] button')
    ascending = [row[1] for row in rows(opened)]
    assert ascending == sorted(ascending, key=str.lower) and len(set(ascending)) > 1
    click(opened, '#board th[data-column="representation"] button')
    assert [row[1] for row in rows(opened)] == sorted(ascending, key=str.lower, reverse=True)
    head = opened.find_element("css selector", '#board th[data-column="representation"]')
    assert head.get_attribute("aria-sort") == "descending"
    click(opened, '#board th[data-column="Recall@10"] button')
    values = opened.execute_script("return [...document.querySelectorAll('#board tbody:last-of-type tr')].slice(1)"
                                   ".map(r => Number(r.cells[5].textContent))")
    assert values == sorted(values, reverse=True)
    choose(opened, "method", "KNN")
    assert {row[0] for row in rows(opened)} == {"KNN"} and not rows(opened, "without content")
    choose(opened, "part", "cold_test")
    assert "cold_test" in opened.find_element("id", "board-title").text and rows(opened)
    choose(opened, "metric", "HitRate")
    choose(opened, "k", "5")
    assert opened.find_elements("css selector", '#board th[data-column="HitRate@5"]')
    assert sorts(opened) == {("HitRate@5", "descending")}


def sorts(driver):
    """{(column, direction)} of the columns that the head names as sorted."""
    heads = driver.find_elements("css selector", "#board th[aria-sort]")
    return {(head.get_attribute("data-column"), head.get_attribute("aria-sort")) for head in heads} - {
        (head.get_attribute("data-column"), "none") for head in heads}


def test_the_worth_of_content_and_the_curves_are_drawn(opened):
    assert opened.execute_script("return document.querySelectorAll('#worth-plot .errorbar').length") == 1
    for name in ("k-plot", "activity-plot", "popularity-plot", "coverage-plot", "popular-plot", "learning-plot"):
        assert opened.execute_script(f"return document.querySelectorAll('#{name} .points path').length") > 0, name
    labels = opened.execute_script("return [...document.querySelectorAll('#k-plot .legendtext')].map("
                                   "t => t.textContent)")
    assert "KNN noise (<b>bold</b>)" in labels   # shown as written, not read as markup


def test_a_user_is_opened_and_listened_to(opened):
    first = opened.find_element("id", "user-lists").text
    assert "history" in first and "held out" in first and "KNN content" in first
    values = opened.execute_script("return [...document.getElementById('user').options].map(o => o.value)")
    assert len(values) == 3
    choose(opened, "user", values[1])
    assert opened.find_element("id", "user-lists").text != first
    choose(opened, "listen-part", "cold_test")
    assert len(opened.execute_script("return [...document.getElementById('user').options]")) == 3
    click(opened, "#user-lists button.play:not([disabled])")
    now = "return document.getElementById('audio').currentTime"
    until(lambda: opened.execute_script(now) > 0)
    before = opened.execute_script(now)
    until(lambda: opened.execute_script(now) > before)
    assert opened.find_element("id", "playing").text != "Nothing is playing"
    assert opened.find_elements("css selector", '#user-lists button.play[aria-pressed="true"]')
    hits = opened.execute_script("return [...document.querySelectorAll('#user-lists .card')].map(c => [c.querySelector("
                                 "'h4').textContent, c.querySelectorAll('li.hit').length])")
    assert all(f"({n} hits)" in title for title, n in hits if "hits" in title)


def test_a_point_of_the_map_is_clicked(opened):
    from selenium.webdriver.common.actions.action_builder import ActionBuilder
    choose(opened, "projection", "t-SNE")
    for colour in ("hot or cold", "released", "styles"):
        choose(opened, "colour", colour)
    place = opened.find_element("id", "map-plot")
    opened.execute_script("arguments[0].scrollIntoView({block: 'start'})", place)
    until(lambda: opened.execute_script("return document.querySelectorAll('#map-plot .points path').length > 20"))
    x, y = opened.execute_script("const box = document.querySelectorAll('#map-plot .points path')[5]."
                                 "getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]")
    mouse = ActionBuilder(opened)
    mouse.pointer_action.move_to_location(round(x), round(y)).pause(.3).click()
    mouse.perform()
    until(lambda: opened.find_element("id", "neighbours").text.startswith("Near"))
    text = opened.find_element("id", "neighbours").text
    assert "content" in text and "noise" in text and "cosine" in text
    until(lambda: opened.execute_script("return document.getElementById('audio').currentTime") > 0)


def test_the_map_is_reached_by_keyboard_and_names_are_text(opened):
    from selenium.webdriver import Keys
    field = opened.find_element("id", "find")
    field.send_keys(EVIL[0], Keys.ENTER)
    until(lambda: opened.find_element("id", "neighbours").text.startswith("Near"))
    assert f"Near {EVIL[0]}" in opened.find_element("id", "neighbours").text
    field.clear()
    field.send_keys("nobody", Keys.ENTER)
    until(lambda: "No track of the map is called nobody" in opened.find_element("id", "neighbours").text)
    shown = opened.execute_script("return document.body.textContent")
    assert EVIL[1] in shown and "{{ 7 * 7 }}" in shown and "x" * 200 not in shown.replace("x" * 159 + "…", "")
    assert opened.execute_script("return document.querySelectorAll('main img, #provenance img, header b').length") == 0


def test_it_fits_a_phone_and_follows_the_dark_mode(opened):
    light = opened.execute_script("return getComputedStyle(document.body).backgroundColor")
    screen(opened, 390, 844, dark=True)
    until(lambda: opened.execute_script("return getComputedStyle(document.body).backgroundColor") != light)
    until(lambda: opened.execute_script("return document.documentElement.scrollWidth <= window.innerWidth"))
    ink = opened.execute_script("return getComputedStyle(document.querySelector('#k-plot .xtick text')).fill")
    assert ink == opened.execute_script("return getComputedStyle(document.body).color")


def test_controls_have_names_and_the_text_has_contrast(opened):
    unnamed = opened.execute_script("""
        return [...document.querySelectorAll('button, select, input, audio, img')].filter(e =>
          !(e.labels && e.labels.length) && !e.getAttribute('aria-label') && !e.textContent.trim()
          && !e.getAttribute('alt') && e.id !== 'audio').map(e => e.outerHTML)""")
    assert unnamed == []
    for dark in (False, True):
        screen(opened, *SCREEN, dark=dark)
        time.sleep(.3)
        for css in ("body", ".note", "nav a", "td.number", ".card .who", "button.play"):
            assert contrast(opened, css) >= 4.5, (css, dark)


def contrast(driver, css):
    """WCAG 2 contrast of an element's text on the nearest background."""
    ink, ground = driver.execute_script("""
        let e = document.querySelector(arguments[0]);
        const c = getComputedStyle(e).color, ground = (place) => getComputedStyle(place).backgroundColor;
        while (ground(e) === 'rgba(0, 0, 0, 0)') e = e.parentElement;
        const g = ground(e);
        return [c, g].map(x => x.match(/[0-9.]+/g).slice(0, 3).map(Number));""", css)

    def luminance(rgb):
        linear = [v / 255 / 12.92 if v <= 10 else ((v / 255 + .055) / 1.055) ** 2.4 for v in rgb]
        return .2126 * linear[0] + .7152 * linear[1] + .0722 * linear[2]
    low, high = sorted(map(luminance, (ink, ground)))
    return (high + .05) / (low + .05)
