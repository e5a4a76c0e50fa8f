"""The report in a real browser: what is drawn, what can be read off, what goes out, widths, contrast, print."""

import json
import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from jaxft.report.__main__ import main
from reports import HOSTILE, write_photos, write_run

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
CONTRAST = """
const srgb = (text) => {
  const numbers = text.match(/[\\d.]+(e-?\\d+)?/g).map(Number);
  const [r, g, b, a = 1] = numbers;
  return text.startsWith("color(") ? [r, g, b, a] : [r / 255, g / 255, b / 255, a];
};
const light = (c) => c.slice(0, 3).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (element) => {
  for (; element; element = element.parentElement) {
    const colour = srgb(getComputedStyle(element).backgroundColor);
    if (colour[3] > 0) return colour;
  }
  return [1, 1, 1, 1];
};
const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
const found = [];
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !element.checkVisibility({ visibilityProperty: true })) continue;
  const style = getComputedStyle(element);
  const [a, b] = [light(srgb(element.closest("svg") ? style.fill : style.color)), light(behind(element))];
  found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), walker.currentNode.data.trim()]);
}
return found;
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.skip("chromium and chromedriver are not installed here: Debian's chromium and chromium-driver have them")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(programs[1])
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture(scope="module", params=["four", "forty"])
def report(request, tmp_path_factory):
    """The address of a report: of four classes with names that would be markup, or of forty."""
    folder = tmp_path_factory.mktemp(request.param)
    names = HOSTILE if request.param == "four" else [f"species {i}" for i in range(40)]
    out = write_run(folder / "run", write_photos(folder / "photos", names, 3, 3), 0.25)
    assert main([str(out)]) == 0
    return (out / "report.html").as_uri()


@pytest.fixture
def page(browser, report):
    """The browser with the report open on a wide, light screen, its logs empty."""
    sized(browser, 1000)
    dressed(browser, "light")
    browser.get(report)
    return browser


def sized(browser, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def dressed(browser, theme: str, media: str = "") -> None:
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


def chart_of(page, number: int = 0):
    """A chart, scrolled to."""
    chart = page.find_elements(By.CSS_SELECTOR, ".chart")[number]
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    return chart


def tip_of(chart) -> str:
    """What is read off a chart: nothing where nothing is shown."""
    return chart.find_element(By.CSS_SELECTOR, ".tip").text.replace("\u00a0", " ")


def waited(page, holds) -> None:
    """Input events reach the page a moment after they are sent."""
    WebDriverWait(page, 10).until(lambda _: holds())


def test_nothing_goes_out_and_nothing_fails(page, report):
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    ours = [request["request"]["url"] for request in asked if request.get("documentURL") == report]
    assert ours[0] == report
    assert all(url.startswith("data:") for url in ours[1:])
    assert page.get_log("browser") == []
    assert page.execute_script("return document.querySelectorAll('main script').length") == 0


def test_everything_is_drawn(page):
    lengths = page.execute_script(
        "return [...document.querySelectorAll('.chart > svg .line')].map(path => path.getTotalLength())"
    )
    assert len(lengths) == 4
    assert min(lengths) > 200
    bars = page.execute_script("return [...document.querySelectorAll('.count')].map(bar => bar.getBBox().height)")
    assert max(bars) > 40
    images = page.execute_script("return [...document.images].map(image => [image.naturalWidth, image.clientWidth])")
    assert len(images) > 40
    assert all(natural >= 16 and shown > 40 for natural, shown in images)


def test_the_mouse_reads_values_off(page):
    chart = chart_of(page)
    assert tip_of(chart) == ""
    svg = chart.find_element(By.CSS_SELECTOR, "svg[viewBox='0 0 400 236']")
    ActionChains(page).move_to_element_with_offset(svg, svg.size["width"] // 2 - 12, 0).perform()
    waited(page, lambda: tip_of(chart))
    # The last test record of the loop: 25 % after four epochs; of the last training window 4/5.
    assert tip_of(chart).split("\n") == ["epoch 4", "training 80.0 %", "test 25.0 %"]
    assert len(chart.find_elements(By.CSS_SELECTOR, ".spot")) == 2
    box, tip = (page.execute_script("return arguments[0].getBoundingClientRect().toJSON()", element)
                for element in (chart, chart.find_element(By.CSS_SELECTOR, ".tip")))  # fmt: skip
    assert box["left"] <= tip["left"]
    assert tip["right"] <= box["right"]
    ActionChains(page).move_to_element(page.find_element(By.TAG_NAME, "h2")).perform()
    waited(page, lambda: tip_of(chart) == "")


def test_a_finger_reads_values_off(page):
    chart = chart_of(page, 2)
    box = page.execute_script(
        "return arguments[0].querySelector(':scope > svg').getBoundingClientRect().toJSON()", chart
    )
    touch = [{"x": box["left"] + box["width"] * 0.9, "y": box["top"] + 50}]
    page.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    page.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": touch})
    page.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
    waited(page, lambda: tip_of(chart))
    head, *rows = tip_of(chart).split("\n")
    assert head.startswith("confidence ")
    assert [row.split()[0] for row in rows] == ["accuracy", "mean", "images"]


def test_the_keyboard_reads_values_off(page):
    chart = chart_of(page, 1)
    chart.send_keys(Keys.ARROW_RIGHT)
    first = tip_of(chart)
    assert first.startswith("epoch 0.2")
    chart.send_keys(Keys.ARROW_RIGHT)
    assert tip_of(chart).startswith("epoch 0.4")
    chart.send_keys(Keys.END)
    assert tip_of(chart).split("\n")[-1] == "test 0.450"
    chart.send_keys(Keys.ARROW_LEFT, Keys.HOME)
    assert tip_of(chart) == first
    chart.send_keys(Keys.ESCAPE)
    assert tip_of(chart) == ""


@pytest.mark.parametrize("width", [320, 360, 390, 768, 1000])
def test_the_page_is_as_wide_as_the_screen(page, width):
    sized(page, width)
    root = "const root = document.documentElement; return [root.scrollWidth, root.clientWidth, innerWidth]"
    needed, there, screen = page.execute_script(root)
    assert needed <= there
    assert screen == width
    wide = page.execute_script(
        "return [...document.querySelectorAll('main *')].filter(element => !element.closest('.scroll') &&"
        " element.getBoundingClientRect().right > innerWidth).map(element => element.outerHTML.slice(0, 80))"
    )
    assert wide == []
    # What scrolls in its own box can be reached by the keyboard.
    page.refresh()
    boxes = page.execute_script(
        "return [...document.querySelectorAll('.scroll')].filter(box => box.checkVisibility())"
        ".map(box => [box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight, box.tabIndex === 0])"
    )
    assert len(boxes) >= 3
    assert all(scrolls == reached for scrolls, reached in boxes)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out(page, theme):
    dressed(page, theme)
    page.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
    found = page.execute_script(CONTRAST)
    assert len(found) > 200
    assert [entry for entry in found if entry[0] < 4.5] == []


def test_tables_sort(page):
    table = page.find_elements(By.CSS_SELECTOR, "table.sortable")[-1]

    def column(number: int) -> list[str]:
        return page.execute_script(
            "return [...arguments[0].tBodies[0].rows].map(row => row.cells[arguments[1]].textContent)", table, number
        )

    def numbers(number: int) -> list[float]:
        return [float(text[:-2]) for text in column(number) if text != "–"]

    before = column(0)
    head = table.find_elements(By.CSS_SELECTOR, "thead th button")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", table)
    head[2].click()
    assert numbers(2) == sorted(numbers(2))
    head[2].click()
    assert numbers(2) == sorted(numbers(2), reverse=True)
    assert table.find_elements(By.TAG_NAME, "th")[2].get_attribute("aria-sort") == "descending"
    head[1].send_keys(Keys.ENTER)
    assert numbers(1) == sorted(numbers(1))
    dashes = column(1).count("–")
    assert dashes
    assert column(1)[-dashes:] == ["–"] * dashes
    head[0].click()
    assert sorted(column(0)) == sorted(before)


def test_the_command_can_be_copied(page):
    button = page.find_element(By.CSS_SELECTOR, ".copy button")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    page.execute_cdp_cmd("Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]})
    button.click()
    WebDriverWait(page, 10).until(lambda _: button.text == "Copied")
    read = "navigator.clipboard.readText().then(arguments[0], error => arguments[0](String(error)))"
    copied = page.execute_async_script(read)
    assert copied == page.find_element(By.CSS_SELECTOR, ".copy code").text
    assert copied.startswith("python -m jaxft.train --config ")


def test_without_a_script_it_says_the_same(page, report):
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    page.get(report)
    titles = [title.get_attribute("textContent") for title in page.find_elements(By.CSS_SELECTOR, ".chart title")]
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert "test, epoch 4: 25.0\u00a0%" in titles
    assert any(title.startswith("confidence ") for title in titles)
    assert page.find_elements(By.TAG_NAME, "button") == []


def test_paper_is_white_and_nothing_floats_over_it(page):
    dressed(page, "dark", "print")
    page.execute_script("document.documentElement.scrollTop = 0")
    assert page.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    places = page.execute_script(
        "return [...document.querySelectorAll('th, td')].map(c => getComputedStyle(c).position)"
    )
    assert set(places) == {"static"}
    floating = "[...document.querySelectorAll('.copy button, .tip, details')]"
    assert not page.execute_script(f"return {floating}.filter(one => one.checkVisibility()).length")
    assert all(head.is_displayed() for head in page.find_elements(By.CSS_SELECTOR, "section > figure th button"))
    assert [entry for entry in page.execute_script(CONTRAST) if entry[0] < 4.5] == []
