/** The page in a real browser: what it loads, how it fits, what lies over what. Skipped where Chromium is not installed. */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { type Browser, chromium, type Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { campaignReport } from '../../../src/report/campaigns/report.js';
import { html } from '../../../src/report/document/html.js';
import { GOOD, generatedCampaign } from '../campaigns/generated.js';
import { named, opened, overlaps, paper, shownRuns, weakText, widths } from './in-page.mjs';

const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
const installed = existsSync(CHROMIUM);
if (!installed)
  console.warn(`the report page is not tested: no Chromium at ${CHROMIUM} (sudo apt-get install chromium)`);

const ARGUMENTS = [
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

const CAMPAIGNS = [
  generatedCampaign({ ...GOOD, runs: 60 }),
  generatedCampaign({
    ...GOOD,
    name: 'nilihype-register-3appvm',
    fault: 'register',
    runs: 80,
    seed: 8,
    detected: 0.3,
    sdc: 0.1,
    noVmf: 0.8,
    oneVm: 0.1,
  }),
  generatedCampaign({
    ...GOOD,
    name: 'a-campaign-with-a-name-that-is-longer-than-any-axis-of-a-phone-is-wide',
    fault: 'code',
    runs: 60,
    seed: 9,
    detected: 0.6,
    sdc: 0.1,
    noVmf: 0.7,
    oneVm: 0.1,
  }),
];

describe.skipIf(!installed)('the page in a browser', { timeout: 60_000 }, () => {
  let browser: Browser;
  let folder: string;
  let address: string;

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'ninelives-page-'));
    const path = join(folder, 'report.html');
    writeFileSync(
      path,
      html(campaignReport({ campaigns: CAMPAIGNS, evidencePath: ({ dir }, file) => `${dir}/${file}` })),
    );
    address = pathToFileURL(path).href;
    browser = await chromium.launch({ executablePath: CHROMIUM, args: ARGUMENTS });
  }, 60_000);

  afterAll(async () => {
    await browser.close();
    rmSync(folder, { recursive: true, force: true });
  });

  async function open<T>(
    options: {
      readonly width: number;
      readonly scheme?: 'light' | 'dark';
      readonly scripts?: boolean;
      readonly hash?: string;
    },
    look: (page: Page) => Promise<T>,
  ): Promise<T> {
    const context = await browser.newContext({
      viewport: { width: options.width, height: 900 },
      colorScheme: options.scheme ?? 'light',
      javaScriptEnabled: options.scripts ?? true,
    });
    try {
      const page = await context.newPage();
      await page.goto(`${address}${options.hash ?? ''}`);
      return await look(page);
    } finally {
      await context.close();
    }
  }

  it('asks for nothing but itself, and says nothing on the console', async () => {
    const [requests, complaints]: [string[], string[]] = [[], []];
    const context = await browser.newContext({ viewport: { width: 1000, height: 900 } });
    const page = await context.newPage();
    page.on('request', (request) => requests.push(request.url()));
    page.on('console', (message) => complaints.push(message.text()));
    page.on('pageerror', (error) => complaints.push(error.message));
    await page.goto(address);
    await page.waitForTimeout(200);
    await context.close();
    expect(requests.filter((url) => !url.startsWith('data:'))).toEqual([address]);
    expect(complaints).toEqual([]);
  });

  it.each([1000, 720, 400, 320])('does not scroll sideways at %d pixels', async (width) => {
    const [wanted = 0, there = 0] = await open({ width }, (page) => page.evaluate(widths));
    expect(wanted).toBeLessThanOrEqual(there);
  });

  it.each([1000, 400])('has no labels over each other or outside their chart at %d pixels', async (width) => {
    const found = await open({ width }, (page) => page.evaluate(overlaps));
    expect(found.labels).toBeGreaterThan(100);
    expect(found.problems).toEqual([]);
  });

  it.each(['light', 'dark'] as const)('has text that stands out from its ground in %s', async (scheme) => {
    const weak = await open({ width: 1000, scheme }, (page) => page.evaluate(weakText));
    expect(weak).toEqual([]);
  });

  it('is light on paper, also where the screen is dark, with wide charts and without what needs a click', async () => {
    const seen = await open({ width: 700, scheme: 'dark' }, async (page) => {
      await page.emulateMedia({ media: 'print', colorScheme: 'dark' });
      return page.evaluate(paper);
    });
    expect(seen).toMatchObject({ ground: 'rgb(255, 255, 255)', ink: 'rgb(29, 33, 39)', filter: 0 });
    expect(seen.shown).toBe(seen.wide);
  });

  it('opens the timeline that a link leads to', async () => {
    const target = await open({ width: 1000, hash: '#c1-run-7' }, (page) => page.evaluate(opened, 'c1-run-7'));
    expect(target).toEqual([true, true, true]);
  });

  it('finds runs by words', async () => {
    const told = await open({ width: 1000 }, async (page) => {
      await page.fill('.filter input', 'a-campaign gnttab_copy');
      return page.evaluate(shownRuns);
    });
    expect(told.told).toBe(`${told.shown.length} of 200 runs`);
    expect(told.shown.length).toBeGreaterThan(0);
    for (const text of told.shown) expect(text).toContain('gnttab_copy');
  });

  it('reads without its script', async () => {
    const shown = await open({ width: 1000, scripts: false }, (page) => page.locator('.filter').isVisible());
    expect(shown).toBe(false);
  });

  it('names every chart and every table', async () => {
    const all = await open({ width: 1000 }, (page) => page.evaluate(named));
    expect(all).toEqual({ charts: true, tables: true });
  });
});
