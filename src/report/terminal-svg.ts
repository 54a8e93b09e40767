/**
 * A terminal's text as a picture: ANSI colours in, one self-contained SVG out that reads in light and in dark pages.
 * Only what `style.ts` writes is understood: bold, dim and the eight basic colours.
 */

export interface TerminalSvgOptions {
  /** For readers who cannot see it. */
  readonly title: string;
  /** The command line shown above the text. */
  readonly command?: string;
}

interface Span {
  readonly text: string;
  readonly classes: readonly string[];
}

const CELL_WIDTH = 8.4;
const LINE_HEIGHT = 19;
const MARGIN = 18;
const BAR_HEIGHT = 34;

/** Class by SGR parameter; a number that ends a style names the classes that it ends. */
const STARTS: Readonly<Record<number, string>> = {
  1: 'b',
  2: 'd',
  31: 'red',
  32: 'green',
  33: 'yellow',
  34: 'blue',
  35: 'magenta',
  36: 'cyan',
};
const COLORS = ['red', 'green', 'yellow', 'blue', 'magenta', 'cyan'];
const ENDS: Readonly<Record<number, readonly string[]>> = { 0: ['b', 'd', ...COLORS], 22: ['b', 'd'], 39: COLORS };

/** Light and dark palette; both have a contrast of at least 4.5 to 1 against their background. */
const STYLE = `
.bg{fill:#fbfbfd;stroke:#d5d8de}.t{fill:#24292f;font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;white-space:pre}
.dot{fill:#d5d8de}.b{font-weight:700}.d{fill:#656d76}.red{fill:#b4232c}.green{fill:#1a7431}.yellow{fill:#8a5a00}.blue{fill:#0b5cad}.magenta{fill:#8a3ab9}.cyan{fill:#0b6e79}
@media(prefers-color-scheme:dark){.bg{fill:#14171c;stroke:#30363d}.t{fill:#e6e8eb}.dot{fill:#30363d}.d{fill:#9aa2ad}.red{fill:#ff7b72}.green{fill:#56d364}.yellow{fill:#e3b341}.blue{fill:#79b8ff}.magenta{fill:#d2a8ff}.cyan{fill:#56d4dd}}`;

/** @param text lines with ANSI escapes, as a coloured terminal got them */
export function terminalSvg(text: string, options: TerminalSvgOptions): string {
  const body = text.replace(/\n+$/, '').split('\n');
  const prompt: Span[][] =
    options.command === undefined ? [] : [[{ text: `$ ${options.command}`, classes: ['b'] }], []];
  const lines = [...prompt, ...spansOf(body)];
  const columns = Math.max(40, ...lines.map((line) => line.reduce((sum, span) => sum + [...span.text].length, 0)));
  const width = Math.ceil(columns * CELL_WIDTH + 2 * MARGIN);
  const height = BAR_HEIGHT + lines.length * LINE_HEIGHT + MARGIN;
  const dots = [0, 1, 2].map((n) => `<circle class="dot" cx="${MARGIN + 6 + n * 18}" cy="18" r="5"/>`).join('');
  const rows = lines.map((line, index) => lineSvg(line, BAR_HEIGHT + (index + 0.75) * LINE_HEIGHT)).join('\n');
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img">`,
    `<title>${escapeXml(options.title)}</title>`,
    `<style>${STYLE}</style>`,
    `<rect class="bg" x=".5" y=".5" width="${width - 1}" height="${height - 1}" rx="8"/>${dots}`,
    rows,
    '</svg>',
    '',
  ].join('\n');
}

/** Every span is placed by its column, so that the picture is right with any font that is of one width. */
function lineSvg(line: readonly Span[], y: number): string {
  let column = 0;
  const parts: string[] = [];
  for (const { text, classes } of line) {
    const length = [...text].length;
    const leading = text.length - text.trimStart().length;
    const shown = text.trim();
    if (shown !== '') {
      const x = MARGIN + (column + leading) * CELL_WIDTH;
      const size = [...shown].length * CELL_WIDTH;
      const position = `x="${x.toFixed(1)}" y="${y.toFixed(1)}" textLength="${size.toFixed(1)}"`;
      parts.push(`<text class="${['t', ...classes].join(' ')}" ${position}>${escapeXml(shown)}</text>`);
    }
    column += length;
  }
  return parts.join('');
}

function spansOf(lines: readonly string[]): Span[][] {
  let active: string[] = [];
  return lines.map((line) => {
    const spans: Span[] = [];
    let from = 0;
    // biome-ignore lint/suspicious/noControlCharactersInRegex: an escape sequence begins with a control character
    for (const match of line.matchAll(/\x1b\[([0-9;]*)m/g)) {
      if (match.index > from) spans.push({ text: line.slice(from, match.index), classes: active });
      for (const code of (match[1] ?? '').split(';').map(Number)) active = after(active, code);
      from = match.index + match[0].length;
    }
    if (from < line.length) spans.push({ text: line.slice(from), classes: active });
    return spans;
  });
}

function after(active: readonly string[], code: number): string[] {
  const ended = ENDS[code];
  if (ended !== undefined) return active.filter((name) => !ended.includes(name));
  const started = STARTS[code];
  if (started === undefined) return [...active];
  const replaced = COLORS.includes(started) ? active.filter((name) => !COLORS.includes(name)) : active;
  return [...replaced, started];
}

const escapeXml = (text: string): string =>
  text.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;').replace(/"/g, '&quot;');
