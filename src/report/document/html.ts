/**
 * A report as one page that needs nothing else: styles, pictures and the few lines of script are in it. It reads without the script,
 * which only filters the runs and opens what a link leads into.
 */
import { escapeXml as escaped } from '../chart/svg.js';
import { duration } from '../style.js';
import {
  type Block,
  type FigureBlock,
  type Inline,
  inlines,
  type LegendItem,
  type Report,
  type Rich,
  type RunEntry,
  type RunGroup,
  type Section,
  type Strip,
  type TableBlock,
} from './document.js';
import { PAGE_SCRIPT } from './page-script.js';
import { PAGE_STYLE } from './page-style.js';

/** Each figure is drawn twice, for wide screens and for phones, in units of about a pixel: text keeps its size. */
const WIDTHS = { wide: 890, narrow: 350 } as const;

export function html(report: Report): string {
  const links = report.sections.map(({ id, title }) => `<li><a href="#${escaped(id)}">${escaped(title)}</a></li>`);
  return [
    '<!doctype html>',
    '<html lang="en">',
    '<head>',
    '<meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    '<meta name="color-scheme" content="light dark">',
    '<meta name="generator" content="ninelives">',
    // Nothing is loaded, whatever stands in a record.
    `<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:">`,
    '<link rel="icon" href="data:,">',
    `<title>${escaped(report.title)}</title>`,
    `<style>${PAGE_STYLE}</style>`,
    '</head>',
    '<body>',
    `<header><p class="brand">ninelives report</p><h1>${escaped(report.title)}</h1><p class="subtitle">${escaped(report.subtitle)}</p></header>`,
    `<nav aria-label="Sections"><ul>${links.join('')}</ul></nav>`,
    '<main>',
    ...report.sections.map(sectionHtml),
    '</main>',
    `<script>${PAGE_SCRIPT}</script>`,
    '</body>',
    '</html>',
    '',
  ].join('\n');
}

const sectionHtml = ({ id, title, blocks }: Section): string =>
  [`<section id="${escaped(id)}">`, `<h2>${escaped(title)}</h2>`, ...blocks.map(blockHtml), '</section>'].join('\n');

function blockHtml(block: Block): string {
  switch (block.kind) {
    case 'prose':
      return `<p>${rich(block.text)}</p>`;
    case 'notice':
      return `<p class="notice" role="note">${rich(block.text)}</p>`;
    case 'heading':
      return `<h3>${escaped(block.text)}</h3>`;
    case 'table':
      return tableHtml(block);
    case 'figure':
      return figureHtml(block);
    case 'runs':
      return runsHtml(block.groups);
  }
}

function tableHtml({ caption, columns, rows, folded }: TableBlock): string {
  const side = (index: number): string => (columns[index]?.align === 'right' ? ' class="r"' : '');
  const head = columns.map(({ title }, index) => `<th scope="col"${side(index)}>${escaped(title)}</th>`).join('');
  const body = rows.map(
    ({ cells, strong }) =>
      `<tr${strong === true ? ' class="strong"' : ''}>${cells.map((cell, index) => `<td${side(index)}>${rich(cell)}</td>`).join('')}</tr>`,
  );
  const inner = `<thead><tr>${head}</tr></thead><tbody>${body.join('\n')}</tbody></table></div>`;
  const named = `<div class="scroll" tabindex="0" role="region" aria-label="${escaped(caption)}"><table aria-label="${escaped(caption)}">`;
  return folded === true
    ? `<details class="folded"><summary>Table: ${escaped(caption)}</summary>${named}${inner}</details>`
    : `<p class="caption">${escaped(caption)}</p>${named}${inner}`;
}

function figureHtml(figure: FigureBlock): string {
  const drawn = (['wide', 'narrow'] as const).map(
    (name) => `<div class="${name}">${figure.draw({ width: WIDTHS[name], id: `${figure.id}-${name}` })}</div>`,
  );
  const legend = figure.legend.length === 0 ? '' : `<ul class="legend">${figure.legend.map(legendHtml).join('')}</ul>`;
  return `<figure id="${escaped(figure.id)}"><figcaption>${escaped(figure.caption)}</figcaption>${legend}${drawn.join('')}</figure>`;
}

function legendHtml({ text, class: colour, shape }: LegendItem): string {
  const drawn =
    shape === 'box'
      ? `<rect class="fill ${colour}" x="1" y="2" width="20" height="10"/>`
      : shape === 'dot'
        ? `<circle class="fill ${colour}" cx="11" cy="7" r="5"/>`
        : `<path class="curve ${colour}" d="M0 7h24"/>`;
  return `<li><svg class="swatch" width="24" height="14" viewBox="0 0 24 14" aria-hidden="true">${drawn}</svg>${escaped(text)}</li>`;
}

function runsHtml(groups: readonly RunGroup[]): string {
  const filter =
    '<p class="filter" hidden><label>Show runs with <input type="search" placeholder="number, function, cause" autocomplete="off"></label> <output></output></p>';
  return `<div class="runs">${filter}${groups.map(groupHtml).join('\n')}</div>`;
}

const groupHtml = ({ title, open, runs }: RunGroup): string =>
  `<details class="group"${open ? ' open' : ''}><summary>${escaped(title)}</summary>${runs.map(runHtml).join('\n')}</details>`;

function runHtml({ id, name, end, class: colour, detail, strip, events }: RunEntry): string {
  const items = events.map(
    ({ atMs, title, class: mark, text }) =>
      `<li><span class="at">${atMs === undefined ? '' : atMs === 0 ? '0' : `+${duration(atMs)}`}</span><span class="what"><b class="dot-of ${mark}">${escaped(title)}</b> ${rich(text)}</span></li>`,
  );
  const head = `<b class="dot-of ${colour}">${escaped(name)}</b> <span class="end">${escaped(end)}</span> <span class="detail">${escaped(detail)}</span>`;
  return `<details class="run" id="${escaped(id)}"><summary>${head}</summary>${strip === undefined ? '' : stripHtml(strip)}<ol class="events">${items.join('')}</ol></details>`;
}

/** A picture without text that fits any width; the words are in its title and in the list below it. */
function stripHtml({ parts }: Strip): string {
  const total = parts.reduce((sum, { ms }) => sum + ms, 0) || 1;
  let x = 0;
  const bars = parts.map(({ ms, class: colour, text }) => {
    const width = (ms / total) * 1000;
    const bar = `<rect class="fill ${colour}" x="${x.toFixed(1)}" y="0" width="${Math.max(1, width - 2).toFixed(1)}" height="10"><title>${escaped(text)} ${duration(ms)}</title></rect>`;
    x += width;
    return bar;
  });
  const told = parts.map(({ ms, text }) => `${text} ${duration(ms)}`).join(', ');
  const legend = parts
    .filter(({ ms }) => ms / total >= 0.02)
    .map(({ ms, class: colour, text }) => legendHtml({ text: `${text} ${duration(ms)}`, class: colour, shape: 'box' }));
  return `<svg class="strip" viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label="${escaped(told)}">${bars.join('')}</svg><ul class="legend small">${legend.join('')}</ul>`;
}

const rich = (text: Rich): string => inlines(text).map(inline).join('');

function inline(part: Inline): string {
  if (typeof part === 'string') return escaped(part);
  switch (part.kind) {
    case 'code':
      return `<code>${escaped(part.text)}</code>`;
    case 'strong':
      return `<b>${escaped(part.text)}</b>`;
    case 'anchor':
      return `<a href="#${escaped(part.to)}">${escaped(part.text)}</a>`;
    case 'file':
      return `<a class="file" href="${escaped(part.href)}">${escaped(part.text)}</a>`;
    case 'bar':
      return `<svg class="cell-bar" width="70" height="10" viewBox="0 0 70 10" aria-hidden="true"><rect class="fill ${part.class}" width="${(Math.min(1, part.share) * 70).toFixed(1)}" height="10"/></svg>`;
  }
}
