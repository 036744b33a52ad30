// Drives a browser: node browser.mjs chromium|firefox PATH URL IMAGE [SCRIPT [FLAG ...]] opens the
// page, waits until it has set window.result, prints that as JSON with the
// browser's version, and keeps a picture of the page. With a SCRIPT, a file beside
// this, its function run(page, url) does that instead and returns the result.
import puppeteer from "puppeteer-core";

const [kind, executablePath, url, image, script, ...flags] = process.argv.slice(2);
const browser = await puppeteer.launch({
  browser: kind === "firefox" ? "firefox" : "chrome",
  protocol: kind === "firefox" ? "webDriverBiDi" : "cdp",
  executablePath,
  headless: true,
  acceptInsecureCerts: true,
  args: kind === "firefox" ? flags : [...flags,
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
  ],
});
const page = await browser.newPage();
try {
  await page.setViewport({ width: 900, height: 700 });
  let result;
  if (script) {
    const { run } = await import(new URL(script, import.meta.url));
    result = await run(page, url);
  } else {
    await page.goto(url);
    await page.waitForFunction("window.result !== undefined", { timeout: 30000 });
    result = await page.evaluate("window.result");
  }
  await page.screenshot({ path: image, fullPage: true });
  console.log(JSON.stringify({ version: (await browser.version()).replace(/^.*\//, ""), ...result }));
} catch (error) {
  console.error(error.message, "\nThe page says:\n" + await page.evaluate("document.body.innerText"));
  await page.screenshot({ path: image, fullPage: true });
  process.exitCode = 1;
} finally {
  await browser.close();
}
process.exit();
