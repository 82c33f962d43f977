"""The page with sliders: its areas against closed forms, in Python and in a headless browser."""

import contextlib
import functools
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest

pytest.importorskip("marimo", reason='the page needs marimo: pip install -e ".[app]"')
pytest.importorskip("matplotlib", reason='the page needs matplotlib: pip install -e ".[app]"')

import mru
from notebooks import sliders

AMPLITUDE = 3
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ROUNDING = 0.006  # the page shows two digits
PATIENCE = 60  # seconds: a busy machine compiles slowly


def relay_area(speed, gain, threshold, leak=0):
    """2 beta / g wide and 2 high."""
    return 4 * threshold / gain


def trigger_area(speed, gain, threshold, width):
    """delta / g wide and 1 high."""
    return width / gain


def play_area(speed, gain, radius):
    """A parallelogram, 2 r / g wide and 2 (g A - r) high."""
    return 4 * radius * (gain * AMPLITUDE - radius) / gain


def linear_area(speed, gain, leak):
    """The error e = h - g u is e* (1 - 2 a^k / (1 + a^n)) at step k of a half cycle of n, e* = a g speed / (1 - a)."""
    a, n = 1 - leak, round(2 * AMPLITUDE / speed)
    return 2 * speed * (a * gain * speed / leak) * (n - (1 + a) / leak * (1 - a**n) / (1 + a**n))


def within(speed):
    """A flip of the relay, 2 high, is drawn up to half a step of the drive too early or late, twice a loop."""
    return 2 * speed + 1e-5


CASES = [
    (sliders.Relay, relay_area, {"gain": 1.0, "threshold": 1.0, "leak": 0.0}),
    (sliders.Relay, relay_area, {"gain": 2.0, "threshold": 1.3, "leak": 0.0}),
    (sliders.Trigger, trigger_area, {"gain": 1.0, "threshold": 0.5, "width": 1.0}),
    (sliders.Trigger, trigger_area, {"gain": 1.5, "threshold": 0.0, "width": 3.1}),
    (sliders.Play, play_area, {"gain": 1.0, "radius": 1.0}),
    (sliders.Play, play_area, {"gain": 2.0, "radius": 0.3}),
    (sliders.Linear, linear_area, {"gain": 1.0, "leak": 0.05}),
    (sliders.Linear, linear_area, {"gain": 3.0, "leak": 0.5}),
]


@functools.cache
def sweep(speed):
    return sliders.triangle(speed)


def measured(unit, speed, values):
    u, cycle = sweep(speed)
    state, _ = sliders.respond(unit.maps(u, **values))
    return mru.dynamics.enclosed_area(u[cycle, 0], state[cycle]).item()


@pytest.mark.parametrize("speed", sliders.SPEEDS)
@pytest.mark.parametrize(("unit", "area", "values"), CASES)
def test_the_area_is_that_of_the_closed_form(unit, area, values, speed):
    if area is linear_area:
        assert measured(unit(), speed, values) == pytest.approx(area(speed, **values), rel=1e-4)
    else:
        assert measured(unit(), speed, values) == pytest.approx(area(speed, **values), abs=within(speed))


def test_what_never_writes_encloses_nothing():
    assert measured(sliders.Relay(), 0.02, {"gain": 0.5, "threshold": 2.0, "leak": 0.0}) == 0
    assert measured(sliders.Play(), 0.02, {"gain": 0.5, "radius": 2.0}) == 0


def test_a_leaking_relay_reaches_higher():
    """Repeated writes add up to 1 / (1 - epsilon), within a few steps."""
    wide = measured(sliders.Relay(), 0.005, {"gain": 1.0, "threshold": 1.0, "leak": 0.5})
    assert wide == pytest.approx(2 * relay_area(0.005, 1.0, 1.0), abs=0.1)


def test_every_slider_has_a_place_on_the_page():
    """The sliders of a unit are the parameters of its maps, and start within their limits."""
    for unit in (sliders.Relay(), sliders.Trigger(), sliders.Play(), sliders.Linear()):
        values = {name: start for name, _, _, _, _, start in unit.sliders}
        u = np.zeros((3, 1), np.float32)
        assert sliders.respond(unit.maps(u, **values))[0].shape == (3, 1)
        assert all(first <= start <= last for _, _, first, last, _, start in unit.sliders)


def test_writes_are_those_of_the_equations():
    u = np.float32([0.5, 1.5, 0.5, -0.5, -1.5, 0])[:, None]
    _, relay = sliders.respond(sliders.Relay().maps(u, 1.0, 1.0, 0.0))
    _, trigger = sliders.respond(sliders.Trigger().maps(u, 1.0, 0.25, 0.75))
    state, play = sliders.respond(sliders.Play().maps(u, 1.0, 1.0))
    _, linear = sliders.respond(sliders.Linear().maps(u, 1.0, 0.1))
    assert relay[:, 0].tolist() == [False, True, False, False, True, False]
    assert trigger[:, 0].tolist() == [False, True, False, True, True, True]
    assert state[:, 0] == pytest.approx([0, 0.5, 0.5, 0.5, -0.5, -0.5], abs=1e-6)
    assert play[:, 0].tolist() == [False, True, False, False, True, False]
    assert linear.all()


class Page:
    """The page as a reader has it, in a browser."""

    def __init__(self, driver):
        self.driver = driver

    @property
    def area(self):
        return float(re.search(r"Enclosed area: (\d+\.\d\d)", self.driver.find_element("tag name", "body").text)[1])

    @property
    def images(self):
        return [image.get_attribute("src") for image in self.driver.find_elements("tag name", "img")]

    def choose(self, name):
        """Click on a cell, and wait for its sliders."""
        root = self.driver.find_element("css selector", "marimo-radio").shadow_root
        root.find_element("css selector", f'button[value="{name}"]').click()
        first = {u.name: u.sliders[-1][1] for u in (sliders.Relay, sliders.Trigger, sliders.Play, sliders.Linear)}[name]
        self.wait(lambda: self.thumb(first))

    def thumb(self, label):
        """What is dragged, of the slider of this label; None if there is none."""
        for host in self.driver.find_elements("css selector", "marimo-slider"):
            root = host.shadow_root
            if root.find_element("css selector", "label").text == label:
                return root.find_element("css selector", "[role=slider]")
        return None

    def value(self, label):
        return float(self.thumb(label).get_attribute("aria-valuenow"))

    def drag(self, label, pixels):
        """Drag a slider with the pointer."""
        from selenium.webdriver import ActionChains

        before = self.value(label)
        way = ActionChains(self.driver, duration=50).click_and_hold(self.thumb(label))
        for _ in range(5):
            way.move_by_offset(pixels // 5, 0)
        way.release().perform()
        self.wait(lambda: self.value(label) != before)

    def press(self, label, key):
        """Move a slider by a key."""
        before = self.value(label)
        self.thumb(label).send_keys(key)
        self.wait(lambda: self.value(label) != before)

    def wait(self, condition):
        """Wait for it, while the page is drawn anew."""
        from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
        from selenium.webdriver.support.ui import WebDriverWait

        ignored = (StaleElementReferenceException, WebDriverException, TypeError, AttributeError)
        WebDriverWait(self.driver, PATIENCE, 0.05, ignored_exceptions=ignored).until(lambda _: condition())

    def shows(self, area, tolerance):
        """Wait until the page shows this area."""
        self.wait(lambda: abs(self.area - area) <= tolerance)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Where the page is served, on a free port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = tmp_path_factory.mktemp("server") / "said.txt"
    arguments = ["run", sliders.__file__, "--headless", "--no-token", "--host", "127.0.0.1", "--port", str(port)]
    with said.open("w") as file:
        process = subprocess.Popen([sys.executable, "-m", "marimo", *arguments], stdout=file, stderr=file)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(PATIENCE * 10):
            assert process.poll() is None, said.read_text()
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1):
                break
            time.sleep(0.1)
        else:
            pytest.fail(f"no page after {PATIENCE} s: {said.read_text()}")
        yield url
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def page(request, tmp_path_factory):
    """The page in a headless browser, 1280 by 900."""
    webdriver = pytest.importorskip("selenium.webdriver", reason='no selenium: pip install -e ".[browser]"')
    browser, driver = next(filter(None, map(shutil.which, NAMES)), None), shutil.which("chromedriver")
    if not browser or not driver:
        pytest.skip("no Chromium and chromedriver here: apt-get install chromium chromium-driver")
    address = request.getfixturevalue("address")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    profile = tmp_path_factory.mktemp("profile")
    for argument in ("headless=new", "disable-dev-shm-usage", "hide-scrollbars", f"user-data-dir={profile}"):
        options.add_argument(f"--{argument}")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # which Chromium refuses to root
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        size = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get(address)
        page = Page(driver)
        page.wait(lambda: page.area > 0)
        yield page
    finally:
        driver.quit()


@pytest.fixture
def at_start(page):
    """The page as it opens, on the relay."""
    page.driver.refresh()
    page.wait(lambda: page.area > 0)
    return page


def test_the_threshold_of_the_relay(at_start):
    page = at_start
    before, images = page.area, page.images
    assert before == pytest.approx(4, abs=within(0.02) + ROUNDING)
    page.drag("Threshold β", 60)
    threshold = page.value("Threshold β")
    assert threshold > 1.5
    page.shows(relay_area(0.02, 1, threshold), within(0.02) + ROUNDING)
    assert page.area > before + 1
    assert len(page.images) == len(images) == 2
    assert not set(page.images) & set(images)  # both pictures moved


def test_the_radius_of_the_play(at_start, tmp_path):
    page = at_start
    page.choose(sliders.Play.name)
    page.shows(play_area(0.02, 1, 1), within(0.02) + ROUNDING)
    assert page.driver.save_screenshot(str(tmp_path / "sliders.png"))
    assert page.driver.execute_script("return document.documentElement.scrollHeight") <= 900  # it fits the window
    page.drag("Radius of the band r", -40)
    radius = page.value("Radius of the band r")
    assert radius < 0.8
    page.shows(play_area(0.02, 1, radius), within(0.02) + ROUNDING)
    page.drag("Candidate gain g", 50)
    gain = page.value("Candidate gain g")
    assert gain > 1.2
    page.shows(play_area(0.02, gain, radius), within(0.02) + ROUNDING)


def test_the_width_of_the_trigger(at_start):
    page = at_start
    page.choose(sliders.Trigger.name)
    page.shows(1, within(0.02) + ROUNDING)
    page.drag("Width of the band δ", 60)
    width = page.value("Width of the band δ")
    assert 1.5 < width < 2.5
    page.shows(width, within(0.02) + ROUNDING)


def test_the_loop_of_the_linear_unit_closes_as_the_sweep_slows(at_start):
    from selenium.webdriver.common.keys import Keys

    page = at_start
    page.choose(sliders.Linear.name)
    areas = []
    for speed in (0.02, 0.01, 0.005):
        page.shows(linear_area(speed, 1, 0.05), ROUNDING)
        areas.append(page.area)
        if speed > 0.005:
            page.press("Sweep speed (drive per step)", Keys.ARROW_LEFT)
    assert areas[0] > 1.7 * areas[1] > 3 * areas[2] > 0
