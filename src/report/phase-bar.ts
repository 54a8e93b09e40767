/** The phases of a recovery as one bar, each as wide as its share of the time, with a legend below. */
import type { PhaseTimes } from '../recover/outcome.js';
import { type Paint, padEnd, type StyleName, visibleLength } from './style.js';

/** Colour and glyph differ from phase to phase, so that the bar also reads without colours. */
const PHASES = [
  { key: 'captureMs', label: 'capture', glyph: '█', style: 'blue' },
  { key: 'settleMs', label: 'settle', glyph: '▒', style: 'magenta' },
  { key: 'planMs', label: 'plan', glyph: '▓', style: 'cyan' },
  { key: 'checkMs', label: 'check', glyph: '░', style: 'yellow' },
  { key: 'commitMs', label: 'commit', glyph: '█', style: 'green' },
  { key: 'resumeMs', label: 'resume', glyph: '▒', style: 'red' },
] as const satisfies readonly { key: keyof PhaseTimes; label: string; glyph: string; style: StyleName }[];

/** @param width columns for the bar itself */
export function phaseBar(phases: PhaseTimes, width: number, colors: Paint): string[] {
  const times = PHASES.map((phase) => Math.max(0, phases[phase.key]));
  const total = times.reduce((sum, time) => sum + time, 0);
  const cells = share(times, total, width);
  const bar = PHASES.map((phase, index) => colors[phase.style](phase.glyph.repeat(cells[index] ?? 0))).join('');
  const legend = PHASES.map(
    (phase, index) => `${colors[phase.style](phase.glyph)} ${phase.label} ${(times[index] ?? 0).toFixed(1)}`,
  );
  return [bar, ...fold(legend, width)];
}

/** Whole cells by largest remainder, so that they add up to `width`; a phase that took time at all gets one. */
function share(times: readonly number[], total: number, width: number): number[] {
  if (total <= 0) return times.map(() => 0);
  const exact = times.map((time) => (time / total) * width);
  const cells = exact.map((value, index) => ((times[index] ?? 0) > 0 ? Math.max(1, Math.floor(value)) : 0));
  const order = exact
    .map((value, index) => ({ index, rest: value - Math.floor(value) }))
    .sort((a, b) => b.rest - a.rest);
  let left = width - cells.reduce((sum, cell) => sum + cell, 0);
  for (const { index } of order) {
    if (left <= 0) break;
    if ((times[index] ?? 0) === 0) continue;
    cells[index] = (cells[index] ?? 0) + 1;
    left--;
  }
  // One cell for each of many short phases may be too many; the longest phase pays for them.
  while (left < 0) {
    const longest = cells.indexOf(Math.max(...cells));
    cells[longest] = (cells[longest] ?? 1) - 1;
    left++;
  }
  return cells;
}

function fold(items: readonly string[], width: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const item of items) {
    const longer = line === '' ? item : `${padEnd(line, 0)}  ${item}`;
    if (line !== '' && visibleLength(longer) > width) {
      lines.push(line);
      line = item;
    } else line = longer;
  }
  if (line !== '') lines.push(line);
  return lines;
}
