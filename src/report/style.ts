/** Colours and widths of text for a terminal. Pure: whether to colour is the caller's choice. */

const CODES = {
  bold: [1, 22],
  dim: [2, 22],
  red: [31, 39],
  green: [32, 39],
  yellow: [33, 39],
  blue: [34, 39],
  magenta: [35, 39],
  cyan: [36, 39],
} as const;

export type StyleName = keyof typeof CODES;

/** Wraps text in colours, or hands it back as it is. */
export type Paint = Readonly<Record<StyleName, (text: string) => string>>;

export type ColorMode = 'color' | 'plain';

export function paint(mode: ColorMode): Paint {
  const wrap = (name: StyleName) => (text: string) =>
    mode === 'plain' || text === '' ? text : `\x1b[${CODES[name][0]}m${text}\x1b[${CODES[name][1]}m`;
  return {
    bold: wrap('bold'),
    dim: wrap('dim'),
    red: wrap('red'),
    green: wrap('green'),
    yellow: wrap('yellow'),
    blue: wrap('blue'),
    magenta: wrap('magenta'),
    cyan: wrap('cyan'),
  };
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: an escape sequence begins with a control character
const ESCAPES = /\x1b\[[0-9;]*m/g;

export const stripColors = (text: string): string => text.replace(ESCAPES, '');

/** Columns that `text` takes. All that we print is one column a character; only escapes take none. */
export const visibleLength = (text: string): number => [...stripColors(text)].length;

export const padEnd = (text: string, width: number): string =>
  text + ' '.repeat(Math.max(0, width - visibleLength(text)));

export const padStart = (text: string, width: number): string =>
  ' '.repeat(Math.max(0, width - visibleLength(text))) + text;

/** Cuts plain text (no escapes) to `width` columns, with an ellipsis where something is gone. */
export function cut(text: string, width: number): string {
  const characters = [...text];
  if (characters.length <= width) return text;
  return width < 1 ? '' : `${characters.slice(0, width - 1).join('')}…`;
}

/** Breaks plain text at spaces into lines of at most `width` columns; a word that is longer is broken hard. */
export function wrap(text: string, width: number): string[] {
  const room = Math.max(1, width);
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(/\s+/).filter((part) => part !== '')) {
    let rest = word;
    if (line !== '' && line.length + 1 + rest.length <= room) {
      line += ` ${rest}`;
      continue;
    }
    if (line !== '') lines.push(line);
    while (rest.length > room) {
      lines.push(rest.slice(0, room));
      rest = rest.slice(room);
    }
    line = rest;
  }
  if (line !== '') lines.push(line);
  return lines;
}

/** Milliseconds as a person reads them: `0.04 ms`, `7.3 ms`, `412 ms`, `2.1 s`, `3 min 05 s`. */
export function duration(milliseconds: number): string {
  if (!Number.isFinite(milliseconds)) return 'unknown';
  if (milliseconds < 0.095) return `${milliseconds.toFixed(2)} ms`;
  if (milliseconds < 99.95) return `${milliseconds.toFixed(1)} ms`;
  if (milliseconds < 999.5) return `${Math.round(milliseconds)} ms`;
  if (milliseconds < 59_950) return `${(milliseconds / 1000).toFixed(1)} s`;
  const seconds = Math.round(milliseconds / 1000);
  return `${Math.floor(seconds / 60)} min ${String(seconds % 60).padStart(2, '0')} s`;
}

/** `1 run`, `2 runs`. */
export const count = (n: number, noun: string): string => `${n} ${noun}${n === 1 ? '' : 's'}`;
