// Makes a picture of a report page, for docs/results:
//   node scripts/report-picture.mjs report.html docs/results/report.png [--dark] [--width 1000] [--until SECTION]
// Needs Debian's Chromium (sudo apt-get install chromium). The picture ends before the section named by --until (default: runs).
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { chromium } from 'playwright-core';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    dark: { type: 'boolean', default: false },
    width: { type: 'string', default: '1000' },
    until: { type: 'string', default: 'runs' },
  },
});
const [page, picture] = positionals;
if (page === undefined || picture === undefined) {
  console.error('usage: node scripts/report-picture.mjs report.html picture.png [--dark] [--width 1000] [--until SECTION]');
  process.exit(2);
}

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: [
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
  ],
});
try {
  const context = await browser.newContext({
    viewport: { width: Number(values.width), height: 800 },
    colorScheme: values.dark ? 'dark' : 'light',
    offline: true,
  });
  const tab = await context.newPage();
  await tab.goto(pathToFileURL(resolve(page)).href);
  const end = await tab.evaluate((id) => {
    const section = document.getElementById(id);
    const bottom = section === null ? document.documentElement.scrollHeight : section.getBoundingClientRect().top + scrollY;
    return Math.ceil(bottom);
  }, values.until);
  await tab.screenshot({ path: picture, fullPage: true, clip: { x: 0, y: 0, width: Number(values.width), height: end } });
} finally {
  await browser.close();
}
