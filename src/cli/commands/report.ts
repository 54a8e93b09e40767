/** `ninelives report`: campaigns side by side, and beside what is published, as a page, as Markdown or as text. */
import { mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { dirname, join, relative, resolve, sep } from 'node:path';
import { readCampaign } from '../../campaign/folder.js';
import { EXIT } from '../../common/errors.js';
import type { ReportInput } from '../../report/campaigns/input.js';
import { campaignReport } from '../../report/campaigns/report.js';
import type { RunChoice } from '../../report/campaigns/runs.js';
import type { Report } from '../../report/document/document.js';
import { html } from '../../report/document/html.js';
import { markdown } from '../../report/document/markdown.js';
import { plainText } from '../../report/document/text.js';
import { count } from '../../report/style.js';
import type { Command } from '../command.js';
import { usage } from '../complain.js';

const FORMATS = ['html', 'text', 'markdown'] as const;
type Format = (typeof FORMATS)[number];
const RUN_CHOICES: readonly RunChoice[] = ['all', 'noteworthy', 'none'];

export const report: Command = {
  name: 'report',
  positional: ['<folder>', '...'],
  summary: 'make a page that compares campaigns with each other and with the published figures',
  options: [
    {
      name: 'out',
      value: 'file',
      summary: 'file to write, also -o (default: report.html; text and Markdown go to stdout)',
    },
    {
      name: 'format',
      value: 'format',
      summary: 'html, text or markdown (default: by the ending of the file, else html)',
    },
    {
      name: 'timelines',
      value: 'which',
      summary: 'runs with a timeline: all, noteworthy or none (default: all in HTML, else none)',
    },
  ],
  examples: ['ninelives report nilihype-* -o report.html', 'ninelives report DIR --format text'],
  async run({ typed, json, terminal, print, printJson, width }) {
    const given = typed.text('out');
    const format = formatOf(typed.text('format'), given);
    const out = given ?? (format === 'html' ? 'report.html' : undefined);
    const choice = choiceOf(typed.text('timelines'), format);
    terminal.step('reading campaigns');
    const campaigns = typed.positional.map(readCampaign);
    const base = out === undefined ? process.cwd() : dirname(resolve(out));
    const input: ReportInput = {
      campaigns,
      evidencePath: ({ dir }, path) => asLink(relative(base, join(resolve(dir), path))),
    };
    terminal.step('writing the report');
    const text = written(campaignReport(input, choice), format, width);
    if (out !== undefined) writeWhole(out, text);
    const runs = campaigns.reduce((sum, { records }) => sum + records.length, 0);
    if (json)
      printJson({
        out: out ?? null,
        format,
        campaigns: campaigns.length,
        runs,
        ...(out === undefined ? { text } : {}),
      });
    else if (out === undefined) print([text.trimEnd()]);
    else print([`${out}: ${count(runs, 'run')} of ${count(campaigns.length, 'campaign')}`]);
    return EXIT.ok;
  },
};

function written(value: Report, format: Format, width: number): string {
  switch (format) {
    case 'html':
      return html(value);
    case 'markdown':
      return markdown(value);
    case 'text':
      return plainText(value, width);
  }
}

function formatOf(text: string | undefined, out: string | undefined): Format {
  if (text === undefined)
    return /\.(md|markdown)$/i.test(out ?? '') ? 'markdown' : /\.txt$/i.test(out ?? '') ? 'text' : 'html';
  const format = FORMATS.find((one) => one === text);
  if (format === undefined) throw usage(`--format is "${text}"`, `give ${FORMATS.join(', ')}, as in --format markdown`);
  return format;
}

function choiceOf(text: string | undefined, format: Format): RunChoice {
  if (text === undefined) return format === 'html' ? 'all' : 'none';
  const choice = RUN_CHOICES.find((one) => one === text);
  if (choice === undefined)
    throw usage(`--timelines is "${text}"`, `give ${RUN_CHOICES.join(', ')}, as in --timelines noteworthy`);
  return choice;
}

const asLink = (path: string): string => path.split(sep).map(encodeURIComponent).join('/');

/** The file appears complete or not at all: a browser may be looking at it. */
function writeWhole(path: string, text: string): void {
  mkdirSync(dirname(resolve(path)), { recursive: true });
  const draft = `${path}.${process.pid}.tmp`;
  writeFileSync(draft, text);
  renameSync(draft, path);
}
