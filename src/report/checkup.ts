/** What `doctor` found, as a table with a fix under each line that needs one. */
import { type ColorMode, count, padEnd, paint, wrap } from './style.js';

export interface CheckLine {
  readonly name: string;
  readonly state: 'ok' | 'warning' | 'failed';
  readonly found: string;
  readonly fix?: string;
}

export interface CheckGroup {
  readonly title: string;
  readonly checks: readonly CheckLine[];
}

export function checkup(groups: readonly CheckGroup[], width: number, colors: ColorMode): string[] {
  const p = paint(colors);
  const marks = { ok: p.green('✓'), warning: p.yellow('!'), failed: p.red('✗') };
  const all = groups.flatMap((group) => group.checks);
  const nameWidth = Math.max(0, ...all.map((check) => check.name.length));
  const lines: string[] = [];
  for (const group of groups) {
    lines.push(p.bold(group.title));
    for (const check of group.checks) {
      const indent = ' '.repeat(nameWidth + 6);
      const [first = '', ...more] = wrap(check.found, width - indent.length);
      lines.push(`  ${marks[check.state]} ${padEnd(check.name, nameWidth)}  ${first}`);
      for (const line of more) lines.push(indent + line);
      if (check.fix !== undefined) {
        const [fix = '', ...rest] = wrap(check.fix, width - indent.length - 5);
        lines.push(`${indent}${p.bold('fix:')} ${fix}`, ...rest.map((line) => `${indent}     ${line}`));
      }
    }
    lines.push('');
  }
  const broken = all.filter((check) => check.state === 'failed').length;
  const warnings = all.filter((check) => check.state === 'warning').length;
  const tail = warnings === 0 ? '' : `, ${count(warnings, 'warning')}`;
  lines.push(broken === 0 ? p.green(`fit${tail}`) : p.red(`not fit: ${count(broken, 'check')} failed${tail}`));
  return lines;
}
