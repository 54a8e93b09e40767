/** The little of SVG that our charts need: elements as strings, text that is measured without a browser, a frame. */

export type Attributes = Readonly<Record<string, string | number | undefined>>;

/** Where a chart is drawn: its width in units that are about a CSS pixel, and a prefix that makes its ids unique in the page. */
export interface Canvas {
  readonly width: number;
  readonly id: string;
}

/** Height of chart text in units; `page-style.ts` sets the same. */
export const TEXT_SIZE = 12.5;

export function element(name: string, attributes: Attributes, ...children: readonly string[]): string {
  const written = Object.entries(attributes)
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => ` ${key}="${typeof value === 'number' ? number(value) : escapeXml(value ?? '')}"`)
    .join('');
  return children.length === 0 ? `<${name}${written}/>` : `<${name}${written}>${children.join('')}</${name}>`;
}

/** Text at a point; `anchor` says which of its ends is there. What is longer than `room` is cut. */
export function label(
  x: number,
  y: number,
  text: string,
  options: { readonly anchor?: 'start' | 'middle' | 'end'; readonly class?: string; readonly room?: number } = {},
): string {
  const shown = options.room === undefined ? text : fitText(text, options.room);
  if (shown === '') return '';
  const anchor = options.anchor === 'start' ? undefined : options.anchor;
  return element('text', { x, y, class: options.class, 'text-anchor': anchor }, escapeXml(shown));
}

/** A chart for everyone: drawn for those who see, told in `title` and `description` for those who do not. */
export function frame(
  canvas: Canvas,
  height: number,
  told: { readonly title: string; readonly description: string },
  body: readonly string[],
): string {
  const [title, desc] = [`${canvas.id}-t`, `${canvas.id}-d`];
  return element(
    'svg',
    {
      class: 'chart',
      viewBox: `0 0 ${number(canvas.width)} ${number(height)}`,
      width: canvas.width,
      height,
      role: 'img',
      'aria-labelledby': `${title} ${desc}`,
    },
    element('title', { id: title }, escapeXml(told.title)),
    element('desc', { id: desc }, escapeXml(told.description)),
    ...body,
  );
}

/**
 * Columns that `text` takes at `size`, at most: widths are those of DejaVu Sans, the widest of the usual system fonts, so that what fits
 * here fits everywhere.
 */
export function textWidth(text: string, size = TEXT_SIZE): number {
  let em = 0;
  for (const character of text) em += characterWidth(character);
  return em * size;
}

function characterWidth(character: string): number {
  if (/[ijlI|'.,:;!]/.test(character)) return 0.34;
  if (/[ ft()[\]/\\r-]/.test(character)) return 0.41;
  if (/[mwMW@%…—]/.test(character)) return 1;
  if (/[A-Z+=<>_~≥≤×→±]/.test(character)) return 0.78;
  return 0.64;
}

/** `text`, or as much of its beginning as fits into `room` units, with an ellipsis; nothing where not even that fits. */
export function fitText(text: string, room: number, size = TEXT_SIZE): string {
  if (textWidth(text, size) <= room) return text;
  const characters = [...text];
  while (characters.length > 0 && textWidth(`${characters.join('')}…`, size) > room) characters.pop();
  return characters.length === 0 ? '' : `${characters.join('').trimEnd()}…`;
}

export const escapeXml = (text: string): string =>
  text.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;').replace(/"/g, '&quot;');

/** Two decimals are finer than any screen. */
export const number = (value: number): string => String(Math.round(value * 100) / 100);
